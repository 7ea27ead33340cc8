"""A checkout with the real stages on a toy world so small that all of them run in a minute."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fbr import params, pipeline
from fbr.workspace import PATHS, Workspace
from tests import checkout

STEPS = {
    "cam_train": 12,
    "amn_train": 6,
    "irn_train": 6,
    "psa_train": 6,
    "seg_train": 6,
    "wsis_train": 4,
}


def make(folder: Path, **prepare: int) -> Path:
    """A checkout for the engines; `prepare` changes the world further, as in `train=200`."""
    checkout.make(folder, toy=False)
    checkout.edit(folder / "params.yaml", lambda blocks: shrink(blocks, **prepare))
    return folder


def shrink(blocks: dict, **prepare: int) -> None:
    """Few small images and few steps; everything else stays as params.yaml has it."""
    world = blocks["data"]["toy"]["prepare"]
    world.update({"train": 24, "val": 8, "test": 4} | prepare)
    world["world"].update(size=64, size_jitter=8)
    for recipe in recipes(blocks):
        for stage in recipe.keys() & STEPS.keys():
            recipe[stage].update(steps=STEPS[stage], batch=8, crop=64, warmup=2, log_every=3)
    blocks["inst"]["maskrcnn"]["toy"]["wsis_train"].update(proposals=8, width=16)


def recipes(blocks: dict) -> list[dict]:
    """The toy recipe of every variant that has one."""
    sections = [blocks[axis] for axis in ("cam", "mask", "seg", "inst")]
    variants = [variant for section in sections for variant in section.values()]
    return [variant["toy"] for variant in variants if "toy" in variant]


def instances(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Every (stage, axes) of the matrix under `run:`."""
    blocks = params.read(folder / "params.yaml")
    stages = pipeline.load(folder / "dvc.yaml")
    return [(s.name, axes) for s in stages for axes in pipeline.instances(s, blocks)]


def content(folder: Path, *stages: str) -> dict[str, bytes]:
    """Every file of the declared outputs of these stages, or of all, with its bytes."""
    found = {}
    for stage, axes in instances(folder):
        if stage in (stages or PATHS):
            for path in Workspace(folder).outputs(stage, axes).values():
                files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
                assert files, f"{path} is empty"
                found |= {str(f.relative_to(folder)): f.read_bytes() for f in files}
    return {name: found[name] for name in sorted(found) if not name.endswith("_timestamp")}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of files that only one of two `content`s has, or that differ: short enough to read."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


class Running:
    """A command in a process group of its own, on one core or on all; what it says is kept."""

    def __init__(
        self, folder: Path, *command: str, core: int | None = None, track: str = "off"
    ) -> None:
        self.folder, self.command = folder, " ".join(command)
        self.log = folder / f"{command[0]}.out"
        pin = None if core is None else lambda: os.sched_setaffinity(0, {core})
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=checkout.environment() | {"FBR_TRACK": track},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=pin,
            )

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill the whole process group, as a power cut would, once `reached()`; never too late."""
        until = time.monotonic() + 900
        try:
            while not reached():
                assert self.process.poll() is None, f"{self.command} was too fast:\n{self.said()}"
                assert time.monotonic() < until, f"{self.command} never came there:\n{self.said()}"
                time.sleep(0.01)
        finally:
            self.end()
        assert self.process.returncode == -signal.SIGKILL, f"{self.command} ended before the kill"

    def done(self) -> str:
        """Wait for a good end; return what was said."""
        try:
            self.process.wait(timeout=1800)
        finally:
            self.end()
        assert self.process.returncode == 0, self.said()
        return self.said()

    def end(self) -> None:
        """Kill what still runs, and see it gone: a process group would outlive the tests."""
        until = time.monotonic() + 10
        with suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                time.sleep(0.01)

    def said(self) -> str:
        return self.log.read_text()
