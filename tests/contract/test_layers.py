"""Imports point down only, and nothing that starts quickly loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fbr.workspace import PATHS
from tests.checkout import ROOT

LAYERS = (
    {"__main__"},
    {"cli"},
    {"plan", "tables"},
    {"check_submission", "convert", "doctor", "segment", "study", "sync"},
    {"costs", "export", "predict", "tour"},
    {"stages"},
    {"track", "served", "show", "train"},
    {"datasets", "cam"},
    {"nets"},
    {"losses", "masks", "metrics"},
    {"engines", "launch", "published"},
    {"files", "params", "pipeline", "positions"},
    {"workspace", "catalogue"},
    {"errors", "fbr"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PURE = {"torch", "numpy", "scipy", "skimage", "numba", "pydensecrf", "pycocotools"}
FILES = sorted((ROOT / "fbr").rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Modules that a file imports at run time, as in "fbr.files.atomic"."""
    tree = ast.parse(file.read_text())
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str:
    """Layer member of a module: "files" for "fbr.files.atomic.replacing", "fbr" for itself."""
    rest = module.removeprefix("fbr.").split(".")[0]
    return rest if rest in LEVEL else "fbr"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    relative = file.relative_to(ROOT / "fbr").with_suffix("").parts
    mine = "fbr" if relative == ("__init__",) else relative[0]
    assert mine in LEVEL, f"{mine} belongs to no layer"
    for module in imports(file):
        if not module.startswith("fbr"):
            continue
        other = part(module)
        assert other == mine or LEVEL[other] > LEVEL[mine], f"{mine} imports {module}"
        if mine == "stages" and other == "stages" and relative[1] != "__init__":
            assert module.split(".")[2] not in PATHS, f"one stage imports another: {module}"


@pytest.mark.parametrize("name", ["losses", "masks", "metrics"])
def test_pure_layers_compute_and_nothing_else(name):
    for file in sorted((ROOT / "fbr" / name).rglob("*.py")):
        modules = {module.split(".")[0] for module in imports(file)} - {"fbr"}
        assert modules <= PURE | set(sys.stdlib_module_names), file


def test_what_mlflow_copies_into_a_model_needs_nothing_of_fbr():
    assert not [m for m in imports(ROOT / "fbr" / "served.py") if m.split(".")[0] == "fbr"]


def test_no_file_has_a_name_that_says_nothing():
    empty = {"utils", "misc", "helpers", "common", "core"}
    assert not [file for file in FILES if empty & set(file.with_suffix("").parts)]


QUICK = """
import sys
import fbr, fbr.params, fbr.pipeline, fbr.workspace, fbr.cli, fbr.engines
import fbr.check_submission, fbr.convert, fbr.doctor, fbr.export, fbr.plan, fbr.predict
import fbr.segment, fbr.study, fbr.sync, fbr.tables, fbr.tour
try:
    fbr.cli.main(["--help"])
except SystemExit:
    pass
print([name for name in ("torch", "mlflow", "dvc", "snakemake") if name in sys.modules])
"""


def test_what_starts_quickly_loads_nothing_heavy():
    shown = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "[]"


def test_stages_without_a_network_do_without_torch():
    """Seconds at each start; crf_refine pays them once a worker."""
    stages = ("prepare", "cam_eval", "crf_refine", "superpixel_refine", "cam_cut", "mask_eval")
    stages += ("report",)
    load = "".join(f"import fbr.stages.{stage}\n" for stage in stages)
    shown = subprocess.run(
        [sys.executable, "-c", f"{load}import sys; print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == "False\n"
