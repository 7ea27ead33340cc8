"""What every stage is handed: its axes, its numbers, its paths and its tracking run."""

import logging
import os
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fbr import __version__, params, pipeline, track
from fbr.datasets.prepared import Prepared
from fbr.errors import Refusal
from fbr.files.resume import fingerprint
from fbr.files.tables import read_json, write_json
from fbr.params import SECTION, Params
from fbr.workspace import Workspace

log = logging.getLogger("fbr")


@dataclass
class Job:
    """One execution of one stage instance."""

    stage: str
    axes: dict[str, str]
    params: Params
    workspace: Workspace
    threads: int
    run: "track.Run" = field(init=False)

    @cached_property
    def numbers(self) -> Any:
        """The stage's own block of params.yaml."""
        return self.params.of(self.stage, self.axes)

    @property
    def section(self) -> str:
        """Where they stand in params.yaml, as in "cam.plain.toy.cam_train"."""
        axis = SECTION[self.stage]
        names = [self.axes[a] for a in dict.fromkeys((axis, "data"))]
        return ".".join([axis, *names, self.stage])

    @property
    def seed(self) -> int:
        return self.params.seed[self.axes["seed"]]

    @cached_property
    def data(self) -> Prepared:
        return Prepared(self.workspace.path("prepare", "index", self.axes).parent)

    @property
    def first(self) -> bool:
        """Whether this is the first of a training's processes, the one that writes."""
        return os.environ.get("RANK", "0") == "0"

    def path(self, stage: str, name: str, **other: str) -> Path:
        """An output of an earlier stage on this path; `mask="crf"` looks in a sibling folder."""
        return self.workspace.path(stage, name, self.axes | other)

    def out(self, name: str) -> Path:
        """One of this stage's own outputs."""
        return self.path(self.stage, name)

    @cached_property
    def beside(self) -> Path:
        """Folder of what is not declared: run.json and state/."""
        return self.workspace.beside(self.stage, self.axes)

    @property
    def state(self) -> Path:
        """Folder of what a killed run needs to continue."""
        return self.beside / "state"

    def key(self, *inputs: Path) -> str:
        """Fingerprint of this work: code, numbers, seed and inputs."""
        for path in inputs:
            if not path.exists():
                raise Refusal(f"{path}: missing; run the stage that writes it")
        return fingerprint(self.asked, *code(), *inputs)

    @property
    def asked(self) -> str:
        """Fingerprint of what params.yaml asks for: numbers and seed, whatever the code.

        Defaults do not count: a choice that a later version adds leaves what was made valid.
        """
        numbers = self.numbers.model_dump_json(exclude_defaults=True)
        return fingerprint(self.stage, numbers, "seed" in self.axes and self.seed)


@cache
def code() -> tuple[Path, ...]:
    """Every module of the package: half-done work does not continue over changed code."""
    return tuple(sorted(Path(__file__).parents[1].rglob("*.py")))


@contextmanager
def _lines() -> Iterator[list[str]]:
    """Keep the log's lines for the tracking run."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


@contextmanager
def tracked(job: Job) -> Iterator[Job]:
    """Record the run in MLflow and in run.json beside the outputs; an interrupted run goes on.

    What a killed run left in state/ is kept for the next one, and removed when the work is done.
    """
    alone = job.stage in ("prepare", "report")
    behind = {} if alone else _upstream(job)
    record = _Record(job, {name: run["asked"] for name, run in behind.items() if "asked" in run})
    run = track.Run(0)  # records nothing
    if not alone:
        info = track.RunInfo(
            stage=job.stage,
            axes=job.axes,
            params=job.numbers.model_dump(mode="json"),
            tags={
                "upstream_runs": " ".join(id for r in behind.values() if (id := r["mlflow_run"]))
            },
        )
        run = track.start(job.workspace.root, info, resume=record.interrupted)
    with _lines() as lines:
        with run as job.run:
            record.begin()
            try:
                yield job
            finally:
                job.run.text("log.txt", "\n".join(lines) + "\n")
            record.stop()
        record.end()
    if job.first:
        shutil.rmtree(job.state, ignore_errors=True)


class _Record:
    """run.json: what differs from run to run, so it is no declared output."""

    def __init__(self, job: Job, read: dict[str, str]) -> None:
        """read: what was asked of the runs that made what this one reads, by their folders."""
        self.job, self.file, self.read = job, job.beside / "run.json", read
        self.started = time.time()
        self.seconds: float | None = None
        self.key = job.key()
        earlier = read_json(self.file) if self.file.is_file() else {}
        goes_on = earlier.get("seconds") is None and earlier.get("key") == self.key
        self.continued = bool(earlier) and goes_on
        self.interrupted: str | None = earlier.get("mlflow_run") if goes_on else None
        self._lock, self._ended = threading.Lock(), False

    def begin(self) -> None:
        """Write what is known now, and the MLflow id once it is: a killed run must leave it."""
        self._write()
        threading.Thread(target=self._write_id, daemon=True).start()

    def _write_id(self) -> None:
        if self.job.run.wait_id(60):
            with self._lock:
                if not self._ended:
                    self._write()

    def stop(self) -> None:
        """The work is done; what is left is the tracking's."""
        self.seconds = round(time.time() - self.started, 1)

    def end(self) -> None:
        """Write the final word, with the MLflow id that a short stage learns only now."""
        with self._lock:
            self._ended = True
            self._write()

    def _write(self) -> None:
        if not self.job.first:
            return
        usage = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = max(resource.getrusage(u).ru_maxrss for u in usage)
        write_json(
            self.file,
            {
                "stage": self.job.stage,
                **self.job.axes,
                "key": self.key,
                "asked": self.job.asked,
                "read": self.read,
                "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started)),
                "seconds": self.seconds if self._ended else None,
                "continued": self.continued,
                "peak_memory_mb": round(peak / 1024) if self._ended else None,
                "machine": _machine(),
                "versions": {
                    "fbr": __version__,
                    "python": platform.python_version(),
                    **_versions(),
                },
                "engine": track.engine(),
                **track.git_state(self.job.workspace.root),
                "mlflow_run": self.job.run.id or self.interrupted,
            },
        )


def _machine() -> str:
    device = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{device}{_precision()}{_gpu()}"


def _precision() -> str:
    """Said where numbers differ from those of the usual machine."""
    if (torch := sys.modules.get("torch")) is None:
        return ""
    from fbr.nets.precision import has_bfloat16

    known = has_bfloat16("cuda" if torch.cuda.is_available() else "cpu")
    return "" if known else ", no bfloat16"


def _gpu() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f", {torch.cuda.device_count()} × {torch.cuda.get_device_name()}"


def _versions() -> dict[str, str]:
    return {n: sys.modules[n].__version__ for n in ("numpy", "torch") if n in sys.modules}


def _upstream(job: Job) -> dict[str, dict[str, Any]]:
    """Folder in the workspace → run.json of the runs that made what this one reads."""
    stages, blocks = pipeline.load(job.workspace.pipeline), params.read(job.workspace.params)
    stage = next(stage for stage in stages if stage.name == job.stage)
    read = [dep.format(**job.axes) for dep in stage.deps if not dep.endswith(".py")]
    writers = [pipeline.writer(path, stages, blocks) for path in read]
    root = job.workspace.root
    folders = sorted({job.workspace.beside(writer.name, axes) for writer, axes in writers})
    files = {str(folder.relative_to(root)): folder / "run.json" for folder in folders}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}
