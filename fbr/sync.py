"""`fbr sync`: tell each engine what the other one ran, so that neither runs it again.

Only what one engine holds for up to date, and has a record of, is passed on: a result that
params.yaml or the code has left behind stays to be made again in both.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass

from fbr import engines, params, pipeline
from fbr.errors import Refusal
from fbr.workspace import Workspace


@dataclass(frozen=True)
class Instance:
    """One cell of a stage's matrix under `run:`."""

    target: str  # as DVC names it
    reads: list[str]
    writes: list[str]


def main(argv: list[str], workspace: Workspace) -> int:
    """Compare the engines' records over the matrix of `run:` and pass on what one lacks."""
    parser = argparse.ArgumentParser(prog="fbr sync", description=main.__doc__)
    parser.parse_args(argv)
    if busy := engines.snakemake(workspace) or engines.dvc(workspace):
        raise Refusal(f"an engine runs here ({busy}): wait for it")
    instances = _instances(workspace)
    made = [i for i in instances if all((workspace.root / p).exists() for p in i.writes)]
    changed = json.loads(_ask(workspace, "dvc", "status", "--json"))
    recorded = _recorded(workspace, [path for i in made for path in i.writes])

    known = [i for i in made if all(path in recorded for path in i.writes)]
    commit = [i for i in known if i.target in changed]
    if commit:
        everything = len(commit) == len(instances)
        targets = [] if everything else [i.target for i in commit]
        _ask(workspace, "dvc", "commit", "-q", "-f", "--no-relink", *targets)
    settled = _settled([i for i in made if i.target not in changed or i in commit], instances)
    touch = [i for i in settled if i not in known]
    if touch:
        paths = [path for i in touch for path in i.writes]
        _ask(workspace, "snakemake", "--touch", "--force", "--cores", "1", "--", *paths)

    print(f"DVC:       {len(commit)} recorded that Snakemake ran, {len(settled)} up to date")
    print(f"Snakemake: {len(touch)} recorded that DVC ran, {len(known + touch)} up to date")
    if behind := [i.target for i in made if i not in known + touch]:
        print(f"out of date for both, run an engine: {', '.join(behind)}")
    return 0


def _instances(workspace: Workspace) -> list[Instance]:
    blocks = params.read(workspace.params)
    params.check(blocks, params.Params, workspace.params.name)
    stages = pipeline.load(workspace.pipeline)
    return [
        Instance(
            target=f"{stage.name}@{'-'.join(axes.values())}",
            reads=pipeline.inputs(stage, stages, blocks, axes),
            writes=[path.format(**axes) for path in stage.writes],
        )
        for stage in stages
        for axes in pipeline.instances(stage, blocks)
    ]


def _recorded(workspace: Workspace, paths: list[str]) -> set[str]:
    """Outputs that Snakemake has a record of and would not make again."""
    if not paths:
        return set()
    rows = [
        row.split("\t")
        for row in _ask(workspace, "snakemake", "--summary", "--", *paths).splitlines()
    ]
    return {row[0] for row in rows if len(row) == 6 and row[3] != "-" and row[5] == "no update"}


def _settled(clean: list[Instance], instances: list[Instance]) -> list[Instance]:
    """Those that are clean in DVC together with all that they were made from."""
    writer = {path: i for i in instances for path in i.writes}
    found: list[Instance] = []
    waiting = clean
    while ready := [
        i for i in waiting if all(path not in writer or writer[path] in found for path in i.reads)
    ]:
        found += ready
        waiting = [i for i in waiting if i not in ready]
    return found


def _ask(workspace: Workspace, *command: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=workspace.root,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])  # as DVC does
        raise Refusal(f"{command[0]} {command[1]} failed: {said}")
    return result.stdout
