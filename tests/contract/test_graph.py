"""DVC and Snakemake see the same instances, edges, commands, numbers and resources."""

import json
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from fbr import params, pipeline
from tests import checkout

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")

DATA = ("toy", "voc", "coco")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkout of the real pipeline with a wide matrix, all datasets included."""
    run = {"data": [*DATA], "seed": ["s0", "s1"], "seg": ["deeplabv2"]}
    run |= {"amn": ["amn"], "cam": ["plain", "amn"], "crf": ["crf", "amn_seeds", "psa_seeds"]}
    run |= {"psa": ["psa"], "superpixel": ["superpixel"], "cut": ["none"]}
    run |= {"mask": ["crf", "irn", "psa", "superpixel", "none"]}
    return checkout.make(tmp_path_factory.mktemp("real"), toy=False, **run)


@pytest.fixture(scope="module")
def dvc(folder) -> dict:
    from dvc.repo import Repo

    graph = Repo(str(folder)).index.graph
    return {stage.addressing.split(":")[-1]: (stage, graph.successors(stage)) for stage in graph}


@pytest.fixture(scope="module")
def snakemake(folder) -> dict:
    return jobs(folder, "all")


def jobs(folder: Path, *targets: str) -> dict:
    script = Path(__file__).with_name("snakemake_jobs.py")
    done = subprocess.run(
        [sys.executable, str(script), *targets],
        cwd=folder,
        env=checkout.environment() | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {job["name"]: job for job in json.loads(done.stdout)}


def test_both_engines_have_the_same_instances(dvc, snakemake, folder):
    blocks = params.read(folder / "params.yaml")
    wanted = {
        f"{stage.name}@{'-'.join(axes.values())}"
        for stage in pipeline.load(folder / "dvc.yaml")
        for axes in pipeline.instances(stage, blocks)
    }
    assert set(dvc) == wanted
    assert set(snakemake) == wanted


def test_both_engines_have_the_same_edges(dvc, snakemake, folder):
    stages, blocks = pipeline.load(folder / "dvc.yaml"), params.read(folder / "params.yaml")
    ours = pipeline.edges(stages, blocks)
    theirs = {
        (before.addressing.split(":")[-1], name)
        for name, (_, deps) in dvc.items()
        for before in deps
    }
    assert {(before, name) for name, job in snakemake.items() for before in job["after"]} == theirs
    assert {(a.partition("@")[0], b.partition("@")[0]) for a, b in theirs} == ours


def test_both_engines_run_the_same_commands(dvc, snakemake):
    for name, (stage, _) in dvc.items():
        assert snakemake[name]["command"].startswith(f"FBR_ENGINE=snakemake {stage.cmd} > logs/")


def test_both_engines_watch_the_same_numbers(dvc, snakemake, folder):
    from dvc.fs import localfs
    from dvc.utils.serialize import load_path

    blocks = load_path(str(folder / "params.yaml"), localfs)
    for name, (stage, _) in dvc.items():
        keys = [key for dep in stage.params for key in dep.params]
        values = [reduce(getitem, key.split("."), blocks) for key in keys]
        watched = {key.partition(".")[0]: value for key, value in zip(keys, values, strict=True)}
        assert snakemake[name]["params"] == watched


def test_meta_becomes_threads_and_resources(snakemake, folder):
    for stage in pipeline.load(folder / "dvc.yaml"):
        meta = stage.meta
        wanted = [meta["threads"], meta.get("gpu", 0), 1000 * meta["mem_gb"], meta["minutes"]]
        found = [
            j["resources"] for name, j in snakemake.items() if name.split("@")[0] == stage.name
        ]
        assert all(resources == wanted for resources in found)


def test_what_run_does_not_list_can_be_asked_for_by_its_path(folder):
    path = "results/coco/s4/plain/irn/deeplabv3plus/seg_eval/metrics.json"
    assert "seg_eval@coco-s4-plain-irn-deeplabv3plus" in jobs(folder, path)


def test_a_second_round_shows_where_its_seeds_come_from(dvc, snakemake):
    after = snakemake["amn_train@voc-s1-amn"]["after"]
    assert set(after) == {"prepare@voc", "crf_refine@voc-s1-plain-amn_seeds"}
    assert "crf_refine@voc-s1-plain-amn_seeds" in snakemake["amn_infer@voc-s1-amn"]["after"]
    assert "amn_infer@voc-s1-amn" in snakemake["cam_eval@voc-s1-amn"]["after"]
    assert "cam_train@voc-s1-amn" not in snakemake


@pytest.mark.parametrize("data", DATA)
def test_named_targets_need_their_stage_and_what_the_table_shows_before_it(data):
    blocks = params.read(checkout.ROOT / "params.yaml")
    blocks["run"]["data"] = ["toy"]
    targets = pipeline.targets(pipeline.load(checkout.ROOT / "dvc.yaml"), blocks)
    stages = {
        word: {path.split("/")[-2] for path in targets[f"{word}_{data}"]}
        for word in ("cam", "mask", "seg", "wsis", "submit")
    }
    assert stages["cam"] == {"cam_eval"}
    assert stages["mask"] == {"cam_eval", "mask_eval"}
    assert stages["seg"] == {"cam_eval", "mask_eval", "seg_eval"}
    assert stages["wsis"] == {"cam_eval", "mask_eval", "seg_eval", "wsis_eval"}
    assert stages["submit"] == {"submit"}
    assert all(f"/{data}/" in path for word in stages for path in targets[f"{word}_{data}"])


def test_the_snakefile_is_clean(folder):
    lint = checkout.engine(folder, "snakemake", "--lint")
    assert lint.returncode == 0, lint.stdout + lint.stderr
    form = checkout.engine(checkout.ROOT, "snakefmt", "--check", "Snakefile")
    assert form.returncode == 0, form.stderr
