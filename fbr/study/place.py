"""A study's own workspace: its params.yaml, what is finished in it, and Snakemake at work there."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from fbr import params, pipeline
from fbr.errors import Refusal
from fbr.files.atomic import write_text
from fbr.files.tables import read_json
from fbr.study import plan, records
from fbr.study.plan import Axes, Study
from fbr.workspace import AXES, DOWNLOADS, Workspace

LINKS = ("Snakefile", "fbr", DOWNLOADS, "weights")


class Place:
    """The folder `studies/<name>/`, laid out like a checkout that runs nothing but the study."""

    def __init__(self, home: Workspace, study: Study) -> None:
        self.home, self.blocks = home, study.blocks
        self._remembered = records.read(home.root / study.runs, study)
        self.workspace = Workspace(home.root / "studies" / study.name)
        there = self.workspace.params.is_file()
        self._written = params.read(self.workspace.params) if there else {}

    def set_up(self) -> None:
        """Write and link what the engine reads; scores of recipes that have changed are dropped."""
        if self._written != self.blocks:
            for file, axes in self._scores():
                if not self._current(axes):
                    file.unlink()
            text = yaml.dump(self.blocks, Dumper=_Plain, sort_keys=False, allow_unicode=True)
            write_text(self.workspace.params, text)
            self._written = self.blocks
        # Several stages run at once, and one thread each rounds alike however many there are.
        text = self.home.pipeline.read_text(encoding="utf-8")
        write_text(self.workspace.pipeline, re.sub(r"\bthreads: \d+", "threads: 1", text))
        for name in LINKS:
            source, link = self.home.root / name, self.workspace.root / name
            if source.exists() and not link.is_symlink():
                link.symlink_to(Path("..", "..", name))

    def _scores(self) -> Iterator[tuple[Path, Axes]]:
        """Every score that is there, of maps, masks and predictions."""
        for stage in plan.SCORED.values():
            pattern = Workspace().path(stage, "metrics.json", dict.fromkeys(AXES, "*"))
            for file in self.workspace.root.glob(str(pattern)):
                _, *names = file.relative_to(self.workspace.root).parts[:-2]
                yield file, dict(zip(AXES, names, strict=False))

    def score(self, axes: Axes) -> dict[str, Any] | None:
        """What a run found, here or where the page was written; None where it is not finished."""
        return self.remembered(axes) or self._found(axes)

    def remembered(self, axes: Axes) -> dict[str, Any] | None:
        """What runs.csv says of a run of this recipe, unless it has been scored here, too."""
        known = self._remembered.get(records.key(axes, self._recipe(axes)))
        return None if (self.workspace.root / _score(axes)).parent.exists() else known

    def _recipe(self, axes: Axes) -> str:
        asked = [(key, _at(self.blocks, *key.split("."))) for key in self._keys(axes)]
        return records.digest(asked)

    def _found(self, axes: Axes) -> dict[str, Any] | None:
        """metrics.json of a run, with `seconds`: of maps the last training's, else all stages'.

        None unless it is of the recipe as it is now, and no stage before it has begun anew since.
        """
        file = self.workspace.root / _score(axes)
        if not file.is_file() or not self._current(axes):
            return None
        runs = [(stage.name, self._record(stage, own)) for stage, own in self._behind(axes)]
        known = [run for _, run in runs if run]
        started = [run["started"] for run in known]
        if started != sorted(started) or any(run["seconds"] is None for run in known):
            return None
        if plan.scored(axes) == "cam_eval":
            counted = [run for name, run in runs if "_train" in name][-1:]
        else:
            counted = [run for name, run in runs if name != "prepare"]
        seconds = sum(run["seconds"] for run in counted) if all(counted) else None
        found = read_json(file)
        ways = {f"miou_{name}": way["miou"] for name, way in found.get("also", {}).items()}
        return found | ways | {"seconds": seconds, "recipe": self._recipe(axes)}

    def _record(self, stage: pipeline.Stage, axes: Axes) -> dict[str, Any] | None:
        file = self.workspace.beside(stage.name, axes) / "run.json"
        return read_json(file) if file.is_file() else None

    def _current(self, axes: Axes) -> bool:
        """Whether the params.yaml that results were made with asks for the same as the study."""
        try:
            keys = [key.split(".") for key in self._keys(axes)]
        except Refusal:  # the study has no such recipe any more
            return False
        return all(_at(self._written, *key) == _at(self.blocks, *key) for key in keys)

    def _keys(self, axes: Axes) -> list[str]:
        """The dotted keys of params.yaml that a score depends on."""
        behind = self._behind(axes)
        return [param.format(**own) for stage, own in behind for param in stage.params]

    def _behind(self, axes: Axes) -> list[tuple[pipeline.Stage, Axes]]:
        """Every stage that a score comes from, in the order in which they run."""
        return pipeline.upstream(_score(axes), self._stages, self.blocks)

    @cached_property
    def _stages(self) -> list[pipeline.Stage]:
        return pipeline.load(self.home.pipeline)

    def run(self, runs: list[Axes], jobs: int | None) -> int:
        """Bring these runs about, `jobs` stages at once; return Snakemake's exit code.

        Without a number: one a core, and Snakemake's own limit of one where there is a GPU.
        """
        if importlib.util.find_spec("snakemake") is None:
            raise Refusal("Snakemake is not installed, and runs studies: pip install snakemake")
        together = jobs or len(os.sched_getaffinity(0))
        command = [sys.executable, "-m", "snakemake", "--cores", str(together), "--keep-going"]
        if jobs or not Path("/proc/driver/nvidia/gpus").is_dir():
            gpus = together * self.blocks["machine"]["processes"]
            command += ["--resources", f"gpu={gpus}"]
        command += ["--quiet", "host", "rules", "reason", "--", *map(_score, runs)]
        return _interruptible(command, self.workspace.root)


class _Plain(yaml.SafeDumper):
    """Every block written out where it stands, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _score(axes: Axes) -> str:
    return str(Workspace().path(plan.scored(axes), "metrics.json", axes))


def _at(blocks: dict, *keys: str) -> Any:
    for key in keys:
        blocks = blocks.get(key) or {}
    return blocks


def _interruptible(command: list[str], folder: Path) -> int:
    """Run a command; Ctrl-C and SIGTERM reach it and all that it started, and end this one, too."""
    received = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        os.killpg(process.pid, signal.SIGTERM)

    # Stages are started as `python`, which is to be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    earlier = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
    return code
