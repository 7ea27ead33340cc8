"""The command line: one command a stage, and the tools around them. Starts without torch."""

import argparse
import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

from fbr.errors import NO_ROOM, Refusal, nearest
from fbr.workspace import PATHS, Workspace, axes_of

TOOLS = {
    "check-submission": "check an archive for the test server, of this project or of another",
    "convert": "turn weights published in another format into safetensors",
    "doctor": "check params.yaml, the workspace and what each dataset still needs; runs nothing",
    "export": "a trained network as ONNX, checked against torch",
    "plan": "say how long, and how much disk and memory, a target will need; runs nothing",
    "predict": "masks, maps or instances of any photographs by a trained network",
    "segment": "cut photographs into regions of like colours, without a network",
    "show": "one image through every stage behind a result, as a page or a picture",
    "study": "run the rows and seeds of a study file and write its tables, with error bars",
    "sync": "tell DVC what Snakemake ran, and Snakemake what DVC ran",
    "tables": "set what was measured beside what was published, from the results that are there",
}
# Where a tool may not be called as its command: `fbr.show` draws for everybody.
MODULES = {"show": "tour"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 fine, 2 refused, anything else is a defect or a signal."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except Refusal as refusal:
        print(f"fbr: {refusal}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        doing, do = " writing", "make room"
        if isinstance(error, PermissionError):  # which reading meets, too
            doing, do = ":", "give leave to read or to write it"
        where = f"{doing} {error.filename}" if error.filename else ""
        print(f"fbr: {error.strerror}{where}; {do} or choose another place", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _dispatch(argv: list[str]) -> int:
    from fbr import pipeline

    root = Path()
    known = [*PATHS, *TOOLS]
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        raise Refusal(
            f"unknown command '{argv[0]}', expected one of {', '.join(known)}."
            f"{nearest(argv[0], known)}"
        )
    if argv and argv[0] in PATHS:
        file = Workspace(root).pipeline
        if not file.is_file():
            raise Refusal(f"{file.name}: not found here; run from the folder that holds it")
        stage = next((s for s in pipeline.load(file) if s.name == argv[0]), None)
        if stage is None:
            raise Refusal(f"{file.name}: no stage '{argv[0]}' in it; take it from the repository")
        parser = argparse.ArgumentParser(prog=f"fbr {stage.name}", description=stage.desc)
        for axis in stage.axes:
            parser.add_argument(axis, help=f"name of a block under `{axis}:` in params.yaml")
        return run_stage(stage, vars(parser.parse_args(argv[1:])), Workspace(root))
    parser = _overview()
    chosen = parser.parse_args(argv[:1])
    if chosen.command is None:
        parser.print_help()
        return 0
    _log_to_terminal()
    name = MODULES.get(chosen.command, chosen.command.replace("-", "_"))
    module = importlib.import_module(f"fbr.{name}")
    return module.main(argv[1:], Workspace(root))


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {name:<17} {', '.join(axes_of(name))}" for name in PATHS]
    tools = [f"  {name:<17} {text}" for name, text in TOOLS.items()]
    parser = argparse.ArgumentParser(
        prog="fbr",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Weakly supervised semantic segmentation around FBR. Engines run the stages:\n"
        "  snakemake --cores all seg_toy    or    dvc repro\n\n"
        "stages, each with the names that its path is made of:\n"
        + "\n".join(lines)
        + "\n\ntools:\n"
        + "\n".join(tools),
    )
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="a stage or a tool")
    return parser


def run_stage(stage: "pipeline.Stage", axes: dict[str, str], workspace: Workspace) -> int:  # noqa: F821
    """Check everything that can be checked cheaply, then import the stage and run it."""
    from fbr import engines, params

    numbers = params.load(workspace.params)
    for axis in stage.axes:
        names = numbers.variants(axis)
        if axes[axis] not in names:
            raise Refusal(
                f"{axis} '{axes[axis]}' is no block of params.yaml, expected one of "
                f"{', '.join(names)}.{nearest(axes[axis], names)}"
            )
    numbers.of(stage.name, axes)
    processes = numbers.machine.processes if stage.name.endswith("_train") else 1
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        from fbr.launch import together

        command = [sys.executable, "-m", "fbr", stage.name, *(axes[a] for a in stage.axes)]
        return together(command, processes)
    threads = min(len(os.sched_getaffinity(0)), stage.meta.get("threads", 1))
    threads = max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # Results must not depend on who started the stage, and Snakemake sets these by itself.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    _log_to_terminal()
    alone = engines.guarded(workspace, stage.name, axes)
    with alone, engines.one_gpu(workspace, stage.meta.get("gpu", 0)):
        module = importlib.import_module(f"fbr.stages.{stage.name}")
        from fbr.stages.job import Job, tracked

        with tracked(Job(stage.name, axes, numbers, workspace, threads)) as job:
            module.run(job)
    return 0


class _Terminal(logging.StreamHandler):
    """Writes to what stderr is when something is said, not when the first command ran."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    @property
    def stream(self) -> TextIO:
        return sys.stderr


TERMINAL = _Terminal()


def _log_to_terminal() -> None:
    log = logging.getLogger("fbr")
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    log.addHandler(TERMINAL)
