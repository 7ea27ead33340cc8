"""Keep apart what must not run at once: two engines in one checkout, one stage instance twice.

A lock is a file that its owner holds with flock, so it falls with the process, `kill -9` included.
Towards DVC, Snakemake holds a read lock of DVC's own kind on every output: a `dvc repro` stops
before it deletes anything, while `dvc status` and `dvc metrics` go on.
"""

import atexit
import fcntl
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fbr.errors import Refusal, nearest
from fbr.workspace import PATHS, Workspace

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

ELSEWHERE = "wait for it, or use another checkout"


@contextmanager
def guarded(workspace: Workspace, stage: str, axes: dict[str, str]) -> Iterator[None]:
    """Run one stage instance alone; helper processes of a training are covered by the first one."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    if "DVC_STAGE" in os.environ and (who := snakemake(workspace)):
        raise Refusal(f"Snakemake runs here ({who}) and DVC was started: {ELSEWHERE}")
    name = "-".join([stage, *axes.values()])
    with _held(workspace.locks / f"{name}.lock", f"{stage} {' '.join(axes.values())}", stage):
        yield


@contextmanager
def one_gpu(workspace: Workspace, wanted: int) -> Iterator[None]:
    """Show this process the first GPU that no other stage of this checkout works on.

    Nothing is done where a scheduler, torchrun or the user has chosen already, or there is no GPU;
    with more stages than GPUs the last ones share the first.
    """
    cards = Path("/proc/driver/nvidia/gpus")
    count = len(list(cards.iterdir())) if cards.is_dir() else 0
    if not wanted or count < 2 or {"CUDA_VISIBLE_DEVICES", "LOCAL_RANK"} & set(os.environ):
        yield
        return
    workspace.locks.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for number in range(count):
            lock = held.enter_context((workspace.locks / f"gpu-{number}.lock").open("a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
            break
        yield


@contextmanager
def _held(path: Path, what: str, stage: str) -> Iterator[None]:
    """Hold a lock; a report waits for its turn, everything else is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if stage == "report" else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise Refusal(f"{what} runs already ({file.read().strip()}): {ELSEWHERE}") from None
        except OSError:
            pass  # Some network file systems know no locks; a stage is no worse for it.
        file.truncate(0)
        print(f"pid {os.getpid()} on {platform.node()}", file=file, flush=True)
        yield


def owner(lock: Path) -> str | None:
    """Who holds a lock, as in "pid 12 on node7"; None where nobody does, as after a kill."""
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip()
        except OSError:
            pass
    return None


def snakemake(workspace: Workspace) -> str | None:
    """Who runs Snakemake here; several may, on different files."""
    return next(filter(None, map(owner, sorted(workspace.locks.glob("snakemake-*.lock")))), None)


def dvc(workspace: Workspace) -> str | None:
    """Who runs a stage through DVC here; entries of processes that are gone do not count."""
    try:
        entries = json.loads(workspace.dvc_locks.read_text())
    except (FileNotFoundError, ValueError):
        return None
    pids = [entry["pid"] for entry in entries.get("write", {}).values()]
    return next((f"pid {pid}" for pid in pids if _lives(pid)), None)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def refusing() -> Iterator[None]:
    """Leave Snakemake with one line and exit code 2 where the input is at fault."""
    try:
        yield
    except Refusal as refusal:
        print(f"fbr: {refusal}", file=sys.stderr)
        sys.exit(2)


def before_graph(
    workflow: "Workflow", workspace: Workspace, check: Callable[[list[str]], None]
) -> None:
    """Have targets checked, and the leftovers of a kill cleared, before Snakemake plans.

    Snakemake hands its settings to a workflow only after the Snakefile is read, so this wraps the
    (private) step between the two; tests/pipeline holds it to what it promises.
    """
    plan = workflow._prepare_dag

    def prepare(*args: object, **kwargs: object) -> None:
        settings = workflow.dag_settings
        if workflow.is_main_process:
            with refusing():
                for target in settings.targets:
                    _check_name(target, workflow)
                check(list(settings.targets) or [workflow.default_target])
            if not snakemake(workspace):
                shutil.rmtree(workspace.snakemake_locks, ignore_errors=True)
            settings.force_incomplete = True
        # All rules share one shell line, and an edit of it makes no result wrong.
        settings.rerun_triggers = {t for t in settings.rerun_triggers if t.name != "CODE"}
        plan(*args, **kwargs)

    workflow._prepare_dag = prepare


def _check_name(target: str, workflow: "Workflow") -> None:
    """Refuse a target that is neither a path nor the name of a rule without wildcards."""
    known = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
    if "/" not in target and target not in known and not Path(target).exists():
        raise Refusal(
            f"unknown target '{target}', expected a path or one of {', '.join(known)}."
            f"{nearest(target, known)}"
        )


def claim(workspace: Workspace) -> None:
    """Hold the checkout for Snakemake until this process ends; refuse where DVC works in it."""
    mine = ExitStack()
    atexit.register(mine.close)
    for lock in workspace.locks.glob("snakemake-*.lock"):
        if owner(lock) is None:
            lock.unlink()
    lock = workspace.locks / f"snakemake-{os.getpid()}.lock"
    mine.enter_context(_held(lock, "Snakemake", "snakemake"))
    mine.callback(lock.unlink, missing_ok=True)
    if workspace.dvc_locks.parent.parent.is_dir():
        mine.enter_context(_reading(workspace))


@contextmanager
def _reading(workspace: Workspace) -> Iterator[None]:
    from dvc.fs import localfs
    from dvc.lock import LockError
    from dvc.rwlock import rwlock

    folder = workspace.dvc_locks.parent.resolve()
    folder.mkdir(exist_ok=True)
    tops = {path.partition("/")[0] for files in PATHS.values() for path in files.values()}
    paths = [str(workspace.root.resolve() / top) for top in sorted(tops)]
    lock = rwlock(str(folder), localfs, f"snakemake; {ELSEWHERE}", paths, [], hardlink=False)
    try:
        lock.__enter__()
    except LockError as error:
        who = re.search(r"\(PID (\d+)\)", str(error))
        raise Refusal(f"DVC runs here ({f'pid {who[1]}' if who else error}): {ELSEWHERE}") from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
