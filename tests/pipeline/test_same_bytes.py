"""The whole pipeline, small, by Snakemake and by DVC: same bytes, nothing twice, all tracked."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.checkout import engine
from tests.pipeline import tiny

EVALUATIONS = {"cam_eval", "mask_eval", "seg_eval", "wsis_eval"}


class Finished(NamedTuple):
    """A checkout in which everything ran once, and what its outputs were then."""

    folder: Path
    content: dict[str, bytes]


@pytest.fixture(scope="session")
def both(tmp_path_factory) -> tuple[Finished, Finished]:
    """Everything by Snakemake, tracked, and everything by DVC, untracked, at the same time.

    Each keeps to one core, so that both compute with one thread: their number is part of a result.
    """
    base = tmp_path_factory.mktemp("tiny")
    cores = sorted(os.sched_getaffinity(0))
    snakemake = tiny.make(base / "snakemake")
    dvc = tiny.make(base / "dvc")
    running = [
        tiny.Running(snakemake, "snakemake", "--cores", "all", "all", core=cores[0], track="on"),
        tiny.Running(dvc, "dvc", "repro", core=cores[-1]),
    ]
    try:
        for each in running:
            each.done()
    finally:
        for each in running:
            each.end()
    return Finished(snakemake, tiny.content(snakemake)), Finished(dvc, tiny.content(dvc))


@pytest.fixture(scope="session")
def by_snakemake(both) -> Finished:
    return both[0]


@pytest.fixture(scope="session")
def by_dvc(both) -> Finished:
    return both[1]


def test_both_engines_write_the_same_bytes(by_snakemake, by_dvc):
    odd = tiny.differing(by_snakemake.content, by_dvc.content)
    assert not odd
    assert not list(by_snakemake.folder.rglob("*.partial"))
    assert not list(by_dvc.folder.rglob("state"))


def test_snakemake_again_does_nothing(by_snakemake):
    again = engine(by_snakemake.folder, "snakemake", "--cores", "all", "all")
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr


def test_dvc_again_does_nothing(by_dvc):
    again = engine(by_dvc.folder, "dvc", "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage" not in again.stdout
    assert "Data and pipelines are up to date." in again.stdout


def test_after_sync_dvc_has_nothing_to_do_where_snakemake_ran(by_snakemake):
    synced = engine(by_snakemake.folder, "fbr", "sync")
    assert synced.returncode == 0, synced.stderr
    assert engine(by_snakemake.folder, "dvc", "status", "-q").returncode == 0
    odd = tiny.differing(by_snakemake.content, tiny.content(by_snakemake.folder))
    assert not odd


def test_every_stage_left_one_finished_run(by_snakemake):
    mlflow = pytest.importorskip("mlflow")
    folder = by_snakemake.folder
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fbr-toy")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    tracked = [i for i in tiny.instances(folder) if i[0] not in ("prepare", "report")]
    assert len(runs) == len(tracked)
    for stage, axes in tracked:
        run = runs[f"{stage} {'/'.join(axes.values())}"]
        assert run.info.status == "FINISHED"
        assert axes.items() | {("stage", stage), ("engine", "snakemake")} <= run.data.tags.items()
        stored = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert "log.txt" in stored
        assert ("per_class.json" in stored) == (stage in EVALUATIONS)
        if stage.endswith("_train"):
            assert {"lr", "images_per_second"} <= run.data.metrics.keys()
            assert "step" not in run.data.metrics
    upstream = runs["seg_train toy/s0/plain/irn/deeplabv2"].data.tags["upstream_runs"].split()
    wanted = [runs[name] for name in ("cam_train toy/s0/plain", "irn_infer toy/s0/plain/irn")]
    assert sorted(upstream) == sorted(run.info.run_id for run in wanted)
