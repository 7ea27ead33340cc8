"""`fbr doctor`: check what can be checked without running anything, and say what is missing."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from fbr import __version__, engines, params, pipeline, published
from fbr.errors import Refusal
from fbr.workspace import PATHS, Workspace

PACKAGES = ("torch", "torchvision", "snakemake", "dvc", "mlflow", "pandas", "scikit-image")


def main(argv: list[str], workspace: Workspace) -> int:
    """Check params.yaml, dvc.yaml and the workspace; what a dataset still needs is no fault."""
    parser = argparse.ArgumentParser(prog="fbr doctor", description=main.__doc__)
    parser.parse_args(argv)
    for title, text in _machine(workspace):
        _say(title, text)
    numbers = params.load(workspace.params)
    blocks = params.read(workspace.params)
    stages = pipeline.load(workspace.pipeline)
    _check_pipeline(stages, blocks, workspace)
    count = sum(len(pipeline.instances(stage, blocks)) for stage in stages)
    _say("params", f"fine; {len(stages)} stages, {count} runs of them listed under run:")
    _say("tables", f"{len(published.load(workspace.tables))} of published numbers, fine")
    _say("engines", _engines(workspace))
    _say("leftovers", ", ".join(_leftovers(workspace)) or "none")
    for data, block in numbers.data.items():
        _say(data, *_dataset(data, block.prepare, workspace))
    return 0


def _say(title: str, *lines: str) -> None:
    for label, line in zip([title, *[""] * len(lines)], lines, strict=False):
        print(f"{label:<10} {line}")


def _machine(workspace: Workspace) -> Iterator[tuple[str, str]]:
    found = {name: _version(name) for name in PACKAGES}
    yield "fbr", f"{__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    yield "packages", ", ".join(f"{name} {version or 'missing'}" for name, version in found.items())
    yield "CRF", _crf()
    yield "GPU", _gpu()
    yield "numbers", _precision()
    address = os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db in this folder")
    yield "MLflow", re.sub(r"//[^/@]*@", "//", address)
    yield "disk", f"{shutil.disk_usage(workspace.root).free / 1e9:.0f} GB free"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _crf() -> str:
    ours = f"numba {_version('numba') or 'missing'}"
    if importlib.util.find_spec("pydensecrf") and importlib.util.find_spec("pydensecrf.densecrf"):
        return f"{ours}; pydensecrf2 {_version('pydensecrf2') or 'of unknown version'}, compiled"
    return f"{ours}; pydensecrf2 missing, pip install pydensecrf2 needs a C++ compiler"


def _gpu() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    if not shutil.which(command[0]):
        return "none; stages run on the CPU"
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(result.stdout.strip().splitlines()) or "none that answers"


def _precision() -> str:
    if not importlib.util.find_spec("torch"):
        return "unknown without torch; pip install -e ."
    import torch

    from fbr.nets.precision import has_bfloat16

    if has_bfloat16("cuda" if torch.cuda.is_available() else "cpu"):
        return "bfloat16 in networks, unless a recipe says no"
    return "float32: here bfloat16 would only be emulated, and slow"


def _check_pipeline(stages: list[pipeline.Stage], blocks: dict, workspace: Workspace) -> None:
    """Refuse a dvc.yaml that is not the workspace's, and a `run:` that cannot be made."""
    for stage in stages:
        known = set(PATHS.get(stage.name, {}).values())
        if odd := known.symmetric_difference(stage.writes):
            raise Refusal(
                f"{workspace.pipeline.name}: {stage.name}: outputs differ from fbr/workspace.py: "
                f"{', '.join(sorted(odd))}"
            )
    made = [path for stage in stages for path in pipeline.outputs(stage, blocks)]
    pipeline.check(made, stages, blocks)
    tops = tuple({path.partition("/")[0] + "/" for path in made})
    for stage in stages:
        for axes in pipeline.instances(stage, blocks):
            for path in pipeline.inputs(stage, stages, blocks, axes):
                if path.startswith(tops) and path not in made:
                    raise Refusal(
                        f"{workspace.params.name}: {stage.name} {' '.join(axes.values())} needs "
                        f"{path}, which nothing under run: makes"
                    )


def _engines(workspace: Workspace) -> str:
    snakemake, dvc = engines.snakemake(workspace), engines.dvc(workspace)
    if snakemake and dvc:
        raise Refusal(f"Snakemake ({snakemake}) and DVC ({dvc}) run here at once; stop one of them")
    return (
        (snakemake and f"Snakemake runs ({snakemake})") or (dvc and f"DVC runs ({dvc})") or "idle"
    )


def _leftovers(workspace: Workspace) -> Iterator[str]:
    """What interrupted stages left, to continue from."""
    folders = {Path(path).name for files in PATHS.values() for path in files.values()}
    for top in ("data", "results", "reports"):
        for folder, names, files in os.walk(workspace.root / top):
            found = [n for n in names + files if n == "state" or n.endswith(".partial")]
            yield from (str(Path(folder, name).relative_to(workspace.root)) for name in found)
            names[:] = [n for n in names if n not in folders and n not in found]


def _dataset(data: str, source: params.BaseModel, workspace: Workspace) -> list[str]:
    outputs = workspace.outputs("prepare", {"data": data})
    if all(path.exists() for path in outputs.values()):
        with outputs["index"].open() as index:
            return [f"prepared, {sum(1 for _ in index) - 1} images"]
    from fbr.datasets import SOURCES

    if lines := SOURCES[source.source].missing(source, workspace.root):
        said = [f"  {line}" for line in lines.values()]
        if lines.keys() <= getattr(source, "archives", {}).keys():
            return ["not prepared; prepare will first fetch into downloads/", *said]
        return ["not prepared, and cannot be yet; it needs", *said]
    return [f"not prepared; it can be: snakemake --cores all cam_{data}"]
