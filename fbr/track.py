"""Record a stage in MLflow, best effort: the tracker may fail, the work goes on unharmed.

The stage's side of a run only fills a queue. One daemon thread imports MLflow and makes the calls;
its first failure gives one warning and ends the recording.
"""

import copy
import fcntl
import json
import logging
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fbr.errors import Refusal
from fbr.workspace import AXES

if TYPE_CHECKING:
    import numpy as np
    from mlflow.entities import Run as StoredRun
    from torch import nn

FLUSH_SECONDS = 5.0
METRICS_PER_CALL, PARAMS_PER_CALL, VALUE_LENGTH, NAME_LENGTH = 1000, 100, 6000, 250

# Columns of what a served model takes, and of what it answers.
SERVED = (("image",), ("mask", "classes"))

# Set only where the user has not. Three quick retries give a dead server about ten seconds (by
# default it is minutes); the rest keeps MLflow's chatter out of the stage's log.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# A process forked in the middle of another thread's import inherits import locks that nobody will
# release, and a loader worker would hang on them: a fork waits until MLflow is imported.
_imported = threading.Event()
_imported.set()
os.register_at_fork(before=lambda: _imported.wait(30.0))


@dataclass(frozen=True)
class RunInfo:
    """One execution of a stage: its name, the axes it has, its parameters, and further tags."""

    stage: str
    axes: dict[str, str]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def start(root: Path, info: RunInfo, resume: str | None = None, patience: float = 30.0) -> "Run":
    """Begin recording; returns at once and never raises.

    Runs go to MLFLOW_TRACKING_URI, or else to `mlflow.db` and `mlruns/` under `root`. `resume` is
    the id of the MLflow run to continue; one that the store does not know starts a new run.
    `patience` bounds the wait for the store at the end, in seconds. Nothing is recorded under
    FBR_TRACK=off, nor by the helper processes (RANK above 0) of a distributed training.
    """
    run = Run(patience)
    if os.environ.get("FBR_TRACK") != "off" and os.environ.get("RANK", "0") == "0":
        run._begin(Path(root).resolve(), info, resume)
    return run


class Run:
    """One MLflow run, seen from the stage; only the methods that say so do more than fill a queue.

    An exception inside the with-block marks the run FAILED, Ctrl-C marks it KILLED.
    """

    def __init__(self, patience: float) -> None:
        self.id: str | None = None
        self.patience = patience
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue | None = None  # None: nothing is recorded (any more)

    def wait_id(self, timeout: float) -> str | None:
        """The run's id, waiting for it up to `timeout` seconds; None if there is none (yet)."""
        if self._jobs is not None:
            self._opened.wait(timeout)
        return self.id

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Add a point to each named curve; they are sent in batches every few seconds."""
        values, now = dict(values), time.time()
        self._put(lambda recorder: recorder.collect(values, now, step or 0))

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Store rows of equal keys, such as one per class, as the table `<name>.json`."""
        self._put(lambda to: to.store_table(f"{name}.json", rows))

    def image(self, name: str, pixels: "np.ndarray") -> None:
        """Store `pixels`, uint8 (H, W, 3) or (H, W), as `<name>.png`; leave the array unchanged."""
        self._put(lambda to: to.client.log_image(to.run_id, pixels, f"{name}.png"))

    def file(self, path: Path) -> None:
        """Store a file as it is when its turn comes; it must exist until the run is finished."""
        self._put(lambda to: to.client.log_artifact(to.run_id, str(path)))

    def text(self, name: str, content: str) -> None:
        """Store `content` as the text file `name`."""
        self._put(lambda to: to.client.log_text(to.run_id, content, name))

    def segmentation_model(self, module: "nn.Module", classes: list[str], palette: bytes) -> None:
        """Store a network as an MLflow model that can be served: photographs in, masks out.

        `module` takes (N, H, W, 3) uint8 and gives (N, C, H, W); `classes` are the names of C ids,
        `palette` their colours as of a PNG. The export (a graph and code, no pickle) takes seconds
        and runs in the calling thread, because it must not meet another network at work. The
        network may not compute with sizes in a way that only some of them survive; then, as after
        any failure of the export, there is one warning and the run goes on without a model.
        """
        if self._jobs is None:
            return
        _imported.wait(self.patience)
        try:
            folder = tempfile.TemporaryDirectory(prefix="fbr-model-")
            card = {"classes": classes, "palette": list(palette)}
            _export(module, card, Path(folder.name))
        except Exception as problem:
            _warn(f"model not recorded: {_reason(problem)}")
        else:
            self._put(lambda recorder: recorder.store_model(folder))

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED, waiting up to `patience` for the store."""
        self._put(lambda recorder: recorder.finish(status))
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(self.patience)
            self._stop(f"no answer from the store within {self.patience:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        killed = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.finish("FINISHED" if kind is None else "KILLED" if killed else "FAILED")

    def _begin(self, root: Path, info: RunInfo, resume: str | None) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _imported.clear()
        self._jobs = queue.SimpleQueue()
        work = (root, info, resume, self._jobs)
        self._thread = threading.Thread(target=self._record, args=work, name="track", daemon=True)
        self._thread.start()

    def _put(self, job: "Callable[[_Recorder], None]") -> None:
        if (jobs := self._jobs) is not None:
            jobs.put(job)

    def _record(
        self, root: Path, info: RunInfo, resume: str | None, jobs: queue.SimpleQueue
    ) -> None:
        try:
            recorder = _Recorder(root, info, resume)
            self.id = recorder.run_id
            self._opened.set()
            while self._jobs is not None:
                try:
                    job = jobs.get(timeout=max(0.0, recorder.due - time.monotonic()))
                except queue.Empty:
                    job = _Recorder.flush
                job(recorder)
                if recorder.finished:
                    self._jobs = None
        except BaseException as problem:
            self._stop(_reason(problem))
        finally:
            _imported.set()
            self._opened.set()

    def _stop(self, reason: str) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            _warn(f"tracking off: {reason}; the numbers are in metrics.json and history.csv")


class _Recorder:
    """The other end of the queue: the only place that talks to the store. Everything may raise."""

    def __init__(self, root: Path, info: RunInfo, resume: str | None) -> None:
        self.began = time.time()
        given = os.environ.get("MLFLOW_TRACKING_URI")
        uri = given or f"sqlite:///{root / 'mlflow.db'}"
        local = uri.startswith("sqlite")
        import mlflow
        import mlflow.system_metrics.system_metrics_monitor as machine

        if local:
            import mlflow.store.tracking.sqlalchemy_store
        _imported.set()
        # MLflow reads the variable once, and may have been imported before it was set.
        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        # Processes that create the tables at the same moment crash each other.
        with _alone(root / ".fbr" / "mlflow.lock") if local else nullcontext():
            if not given:
                _create_database(root / "mlflow.db")
            self.client = mlflow.MlflowClient(uri)
            name = f"fbr-{info.axes['data']}"
            self.experiment = self._find_experiment(
                name, None if given else (root / "mlruns" / name).as_uri()
            )
        run = self._resumed(resume) or self._new(info)
        self.run_id, self.began = run.info.run_id, run.info.start_time / 1000
        self._describe(root, info, run.data.params)
        self.points: list[tuple[str, float, float, int]] = []
        self.tables: list[dict[str, str]] = []
        # MLflow's own monitors, without the thread that it would run them in.
        self.monitors = machine.SystemMetricsMonitor(self.run_id, tracking_uri=uri).monitors
        self.due = time.monotonic() + FLUSH_SECONDS
        self.finished = False

    def _find_experiment(self, name: str, home: str | None) -> str:
        if (found := self.client.get_experiment_by_name(name)) is None:
            try:
                return self.client.create_experiment(name, home)
            except Exception:  # on a server, another process may have been faster
                if (found := self.client.get_experiment_by_name(name)) is None:
                    raise
        return found.experiment_id

    def _new(self, info: RunInfo) -> "StoredRun":
        name = f"{info.stage} {'/'.join(info.axes.values())}"
        return self.client.create_run(self.experiment, int(1000 * self.began), run_name=name)

    def _resumed(self, run_id: str | None) -> "StoredRun | None":
        wanted = f"attributes.run_id = '{run_id}'"
        found = self.client.search_runs([self.experiment], wanted) if run_id else []
        if not found:
            return None
        self.client.update_run(run_id, status="RUNNING")
        return found[0]

    def _describe(self, root: Path, info: RunInfo, known: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        source = {"mlflow.source.name": f"fbr {info.stage}", "stage": info.stage}
        tags = {**git_state(root), "engine": engine(), **info.tags, **info.axes, **source}
        self.client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in tags.items()])
        flat = as_text(info.params)
        # A parameter that the resumed run has already may not be given another value.
        params = [Param(key, value) for key, value in flat.items() if key not in known]
        for i in range(0, len(params), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=params[i : i + PARAMS_PER_CALL])

    def collect(self, values: dict[str, float], when: float, step: int) -> None:
        self.points += [(name, float(value), when, step) for name, value in values.items()]

    def flush(self) -> None:
        from mlflow.entities import Metric

        now = time.time()
        for monitor in self.monitors:
            monitor.collect_metrics()
            figures = {f"system/{key}": v for key, v in monitor.aggregate_metrics().items()}
            self.collect(figures, now, int(now - self.began))
            monitor.clear_metrics()
        points = [Metric(_name(key), v, int(1000 * when), s) for key, v, when, s in self.points]
        self.points.clear()
        for i in range(0, len(points), METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=points[i : i + METRICS_PER_CALL])
        self.due = time.monotonic() + FLUSH_SECONDS

    def store_table(self, path: str, rows: list[dict[str, Any]]) -> None:
        # Not log_table, which would append to the table of a run that is resumed.
        names = list(rows[0]) if rows else []
        data = [[None if row[n] != row[n] else row[n] for n in names] for row in rows]  # no NaN
        table = {"columns": names, "data": data}
        self.client.log_dict(self.run_id, table, path)
        self.tables.append({"path": path, "type": "table"})
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps(self.tables))

    def store_model(self, folder: tempfile.TemporaryDirectory) -> None:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        stored = self.client.create_logged_model(self.experiment, "segmentation", self.run_id)
        card = Model.load(Path(folder.name, "model"))
        card.model_id = card.model_uuid = stored.model_id
        card.run_id, card.artifact_path = self.run_id, stored.artifact_location
        card.save(Path(folder.name, "model", "MLmodel"))
        self.client.log_outputs(self.run_id, [LoggedModelOutput(stored.model_id, step=0)])
        self.client.log_model_artifacts(stored.model_id, str(Path(folder.name, "model")))
        self.client.finalize_logged_model(stored.model_id, "READY")
        folder.cleanup()

    def finish(self, status: str) -> None:
        self.flush()
        self.client.set_terminated(self.run_id, status)
        self.finished = True


def store(root: Path) -> str | None:
    """Where the runs of a folder are: the address in MLFLOW_TRACKING_URI, or mlflow.db if there."""
    database = root / "mlflow.db"
    here = f"sqlite:///{database.resolve()}" if database.is_file() else None
    return os.environ.get("MLFLOW_TRACKING_URI") or here


def finished(root: Path) -> list[dict[str, Any]]:
    """Every finished run of a folder's store, the earliest first; refused where it cannot be read.

    A run is its last metrics, and `stage`, its axes, `params` as text, `seconds` and `mlflow_run`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = list(_search(store(root)))
    except Exception as problem:
        raise Refusal(f"MLflow's store cannot be read: {_reason(problem)}") from None
    return [
        run.data.metrics
        | {key: run.data.tags[key] for key in ("stage", *AXES) if key in run.data.tags}
        | {
            "params": run.data.params,
            "seconds": (run.info.end_time - run.info.start_time) / 1000,
            "mlflow_run": run.info.run_id,
        }
        for run in sorted(found, key=lambda run: run.info.start_time)
    ]


def _search(address: str | None) -> "Iterator[StoredRun]":
    """Every finished run of our experiments, page by page."""
    import mlflow

    client = mlflow.MlflowClient(address)
    experiments = client.search_experiments()
    ours = [found.experiment_id for found in experiments if found.name.startswith("fbr-")]
    token, more = None, bool(ours)
    while more:
        page = client.search_runs(ours, "attributes.status = 'FINISHED'", page_token=token)
        yield from page
        token, more = page.token, bool(page.token)


def as_text(numbers: dict[str, Any]) -> dict[str, str]:
    """The parameters of a run as they are stored."""
    return {_name(key): str(value)[:VALUE_LENGTH] for key, value in _leaves(numbers)}


def git_state(root: Path) -> dict[str, str]:
    """The commit, and whether tracked files differ from it; "unknown" outside git."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.check_output(
            command, text=True, stderr=subprocess.DEVNULL, timeout=10
        ).strip()

    try:
        dirty = bool(ask("status", "--porcelain", "--untracked-files=no"))
        return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": str(dirty).lower()}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": "unknown", "git_dirty": "unknown"}


def engine() -> str:
    """Who called this stage: "dvc", "snakemake" (the Snakefile sets FBR_ENGINE) or "shell"."""
    return os.environ.get("FBR_ENGINE") or ("dvc" if "DVC_STAGE" in os.environ else "shell")


def _export(module: "nn.Module", card: dict[str, Any], folder: Path) -> None:
    """Write the MLflow model `folder/model`: the graph of `module`, `card`, and `served.py`."""
    import mlflow.pyfunc
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    _export_graph(module, len(card["classes"]), folder / "network")
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    rows = [Schema([ColSpec(AnyType(), name) for name in names]) for names in SERVED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses an example of what the signature says
        mlflow.pyfunc.save_model(
            folder / "model",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"network": str(folder / "network"), "card": str(folder / "card.json")},
            mlflow_model=Model(),
            signature=ModelSignature(*rows),
            pip_requirements=[*mlflow.pytorch.get_default_pip_requirements(), "mlflow", "pillow"],
        )


def _export_graph(module: "nn.Module", classes: int, folder: Path) -> None:
    """Write `module` as a graph that takes photographs of any size, in MLflow's own format."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    module = copy.deepcopy(module).cpu().float().eval()
    photographs = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    scores = TensorSpec(np.dtype(np.float32), (-1, classes, -1, -1))
    with torch.no_grad():
        mlflow.pytorch.save_model(
            module,
            folder,
            mlflow_model=Model(),
            signature=ModelSignature(Schema([photographs]), Schema([scores])),
            # A batch of one would be frozen into the graph, and so would sides of one length.
            input_example=np.zeros((2, 64, 72, 3), np.uint8),
            serialization_format="pt2",
            pip_requirements=mlflow.pytorch.get_default_pip_requirements(),
        )
        # The exporter may fix the size without a word, which the signature then denies.
        exported = mlflow.pytorch.load_model(str(folder))
        for n, h, w in ((1, 57, 91), (3, 64, 96)):
            if exported(torch.zeros(n, h, w, 3, dtype=torch.uint8)).shape != (n, classes, h, w):
                raise ValueError(f"the exported network does not keep the size {h}×{w}")


def _leaves(nested: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(key: str) -> str:
    """Put `_` for what MLflow refuses in a name: classes are called what people like."""
    return re.sub(r"[^\w.\- :/]", "_", key)[:NAME_LENGTH]


def _create_database(path: Path) -> None:
    """Make MLflow's tables under another name, so that a killed process leaves no half of them."""
    import mlflow

    if not path.exists():
        for leftover in path.parent.glob(f"{path.name}.partial*"):
            leftover.unlink()
        draft = path.with_name(f"{path.name}.partial")
        mlflow.MlflowClient(f"sqlite:///{draft}")
        draft.rename(path)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:  # closing is not enough: a process forked meanwhile has the file open too
            fcntl.flock(handle, fcntl.LOCK_UN)


def _reason(problem: BaseException) -> str:
    while problem.__cause__ is not None:  # MLflow wraps the plain word of the database
        problem = problem.__cause__
    first = (str(problem).splitlines() or [""])[0]
    return f"{type(problem).__name__}: {first}"[:200]


def _warn(message: str) -> None:
    with suppress(OSError, ValueError):  # the log may be on the disk that is full
        print(message, file=sys.stderr, flush=True)
