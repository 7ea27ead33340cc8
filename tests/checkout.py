"""A throw-away checkout in which every stage is a one-line shell command, and the engines on it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FILES = ("Snakefile", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")


def make(folder: Path, toy: bool = True, **run: list[str]) -> Path:
    """Copy what the engines read; `toy` replaces the commands, `run` changes the matrix."""
    for name in ("fbr", ".dvc"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    if toy:
        edit(folder / "dvc.yaml", with_toy_commands)
    if run:
        edit(folder / "params.yaml", lambda params: params["run"].update(run))
    return folder


def edit(file: Path, change) -> None:
    """Change a YAML file in place, keeping the order of its keys."""
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def with_toy_commands(pipeline: dict) -> None:
    """Every stage notes its begin and end in `trace`, and fills its outputs with fresh bytes.

    It counts its attempts in an undeclared file beside them, and hangs while `hang-<stage>` exists.
    """
    for name, stage in pipeline["stages"].items():
        entries = stage.get("outs", []) + stage.get("metrics", [])
        paths = [e if isinstance(e, str) else next(iter(e)) for e in entries]
        files = [p if Path(p).suffix else f"{p}/file" for p in paths]
        folders = " ".join(sorted({os.path.dirname(f) for f in files}))
        axes = " ".join(stage["cmd"].split()[4:])
        stage["cmd"] = (
            f"sh -c 'echo begin {name} {axes} >> trace; mkdir -p {folders};"
            f" echo attempt >> {os.path.dirname(paths[0])}/{name}.partial;"
            f" test ! -e hang-{name} || sleep 60; sleep 0.2;"
            f" date +%s%N | tee {' '.join(files)}; echo end {name} {axes} >> trace'"
        )


def trace(folder: Path) -> list[str]:
    """Instances that ran since the last call, in their order."""
    file = folder / "trace"
    lines = file.read_text().splitlines() if file.is_file() else []
    file.unlink(missing_ok=True)
    return [line.removeprefix("end ") for line in lines if line.startswith("end ")]


def engine(folder: Path, *command: str, **options) -> subprocess.CompletedProcess:
    """Run `snakemake …` or `dvc …` in a checkout."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        **options,
    )


def environment() -> dict[str, str]:
    """That of the tests, with their Python first and nothing that an outer engine has set."""
    mine = {k: v for k, v in os.environ.items() if k not in ("DVC_STAGE", "FBR_ENGINE", "RANK")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return mine | {"PATH": path, "FBR_TRACK": "off"}


class Started:
    """An engine in the background, in a process group of its own, hanging in one stage."""

    def __init__(self, folder: Path, stage: str, *command: str) -> None:
        self.hang = folder / f"hang-{stage}"
        self.hang.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        trace, until = folder / "trace", time.monotonic() + 600
        while not (trace.is_file() and f"begin {stage} " in trace.read_text()):
            assert self.process.poll() is None, f"{command} ended early"
            assert time.monotonic() < until, f"{command} never came to {stage}"
            time.sleep(0.05)

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the whole group as a power cut would, and let the stage run the next time."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.hang.unlink()
