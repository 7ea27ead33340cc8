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
from functools import cached_property
from pathlib import Path
from typing import Any

from fbr import __version__, track
from fbr.datasets.prepared import Prepared
from fbr.files.resume import fingerprint
from fbr.files.tables import read_json, write_json
from fbr.params import Params
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
        """Fingerprint of this work: code version, numbers, seed and inputs."""
        seed = self.axes.get("seed")
        numbers = self.numbers.model_dump_json()
        return fingerprint(__version__, self.stage, numbers, seed and self.seed, *inputs)


class _Lines(logging.Handler):
    """Keeps the log's lines for the tracking run."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def tracked(job: Job) -> Iterator[Job]:
    """Record the run in MLflow and in run.json beside the outputs; an interrupted run goes on.

    What a killed run left in state/ is kept for the next one, and removed when the work is done.
    """
    lines = _Lines()
    log.addHandler(lines)
    record = _Record(job)
    info = track.RunInfo(
        stage=job.stage,
        axes=job.axes,
        params=job.numbers.model_dump(mode="json"),
        tags={"upstream_runs": " ".join(_upstream(job))},
    )
    run = track.Run(0)  # records nothing
    if job.stage not in ("prepare", "report"):
        run = track.start(job.workspace.root, info, resume=record.interrupted)
    with run as job.run:
        record.begin()
        yield job
        job.run.text("log.txt", "\n".join(lines.lines) + "\n")
        record.end()
    if job.first:
        shutil.rmtree(job.state, ignore_errors=True)
    log.removeHandler(lines)


class _Record:
    """run.json: what differs from run to run, so it is no declared output."""

    def __init__(self, job: Job) -> None:
        self.job, self.file = job, job.beside / "run.json"
        self.started = time.time()
        self.key = job.key()
        earlier = read_json(self.file) if self.file.is_file() else {}
        goes_on = earlier.get("seconds") is None and earlier.get("key") == self.key
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

    def end(self) -> None:
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
                "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started)),
                "seconds": round(time.time() - self.started, 1) if self._ended else None,
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
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{_gpu()}"


def _gpu() -> str:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return f", {torch.cuda.device_count()} × {torch.cuda.get_device_name()}"


def _versions() -> dict[str, str]:
    return {n: sys.modules[n].__version__ for n in ("numpy", "torch") if n in sys.modules}


def _upstream(job: Job) -> list[str]:
    """MLflow ids of the runs on the same path that came before this one."""
    found = []
    folder = job.beside.parent
    for record in sorted(folder.glob("*/run.json")) + sorted(folder.parent.glob("*/run.json")):
        if record.parent != job.beside and (run := read_json(record).get("mlflow_run")):
            found.append(run)
    return found[:20]
