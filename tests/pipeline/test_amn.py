"""AMN behind the plain CAM, under both engines: only what it needs runs."""

import shutil

from fbr import cli, params, pipeline
from fbr.files.tables import read_json
from tests import checkout
from tests.pipeline import tiny
from tests.pipeline.test_bad_input import at_home

FIRST = ("cam_train", "cam_infer", "amn_seeds/crf_refine")
SECOND = ("amn_train", "amn_infer", "cam_eval")

# A matrix of the two rounds and nothing behind them.
ROUNDS = {"amn": ["amn"], "cam": ["plain", "amn"], "crf": ["amn_seeds"]} | {
    axis: [] for axis in ("irn", "mask", "seg", "inst")
}


def test_both_engines_run_two_rounds_and_each_believes_the_other(tmp_path):
    folder = checkout.make(tmp_path / "fbr", **ROUNDS)
    done = checkout.engine(folder, "dvc", "repro", "-q", "amn_train@toy-s0-amn")
    assert done.returncode == 0, done.stderr
    first = ["prepare toy", *(f"{stage} toy s0 plain" for stage in ("cam_train", "cam_infer"))]
    first += ["crf_refine toy s0 plain amn_seeds", "amn_train toy s0 amn"]
    assert checkout.trace(folder) == first
    synced = checkout.engine(folder, "fbr", "sync")
    assert "Snakemake: 5 recorded that DVC ran" in synced.stdout, synced.stderr
    done = checkout.engine(folder, "snakemake", "--cores", "1", "all")
    assert done.returncode == 0, done.stderr
    rest = checkout.trace(folder)
    assert not set(rest) & set(first)
    assert rest.index("amn_infer toy s0 amn") < rest.index("cam_eval toy s0 amn")
    synced = checkout.engine(folder, "fbr", "sync")
    assert f"DVC:       {len(rest)} recorded that Snakemake ran" in synced.stdout, synced.stderr
    assert checkout.engine(folder, "dvc", "status", "-q").returncode == 0


def chosen_by_truth(blocks: dict) -> None:
    blocks["cam"]["amn_fbr"]["toy"]["amn_train"]["select"] = "train"


def test_with_fbr_it_runs_behind_plain_and_brings_about_nothing_else(tmp_path, caplog):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(checkout.ROOT / name, tmp_path)
    checkout.edit(tmp_path / "params.yaml", tiny.shrink)
    checkout.edit(tmp_path / "params.yaml", chosen_by_truth)
    results = tmp_path / "results/toy/s0"
    target = "results/toy/s0/amn_fbr/cam_eval/metrics.json"
    stages, blocks = pipeline.load(tmp_path / "dvc.yaml"), params.read(tmp_path / "params.yaml")
    # In this process: seven stages would be as many starts, and more with an engine.
    with at_home(tmp_path):
        for stage, axes in pipeline.upstream(target, stages, blocks):
            assert cli.main([stage.name, *(axes[axis] for axis in stage.axes)]) == 0
    ran = {str(file.parent.relative_to(results)) for file in results.rglob("run.json")}
    assert ran == {*(f"plain/{s}" for s in FIRST), *(f"amn_fbr/{s}" for s in SECOND)}
    assert "the best before it -inf" in caplog.text
    metrics = read_json(tmp_path / target)
    assert 0 < metrics["miou"] <= metrics["miou_oracle"]
    assert metrics["scales"] == [1.0, 1.5]
    described = read_json(results / "amn_fbr/cam_train/model.json")
    assert (described["stage"], described["method"]) == ("amn_train", "amn")
    history = (results / "amn_fbr/cam_train/history.csv").read_text().splitlines()[0]
    assert {"background", "foreground", "l_fb", "l_if"} <= set(history.split(","))
