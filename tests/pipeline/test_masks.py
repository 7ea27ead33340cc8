"""Every way to masks that `run:` does not list, by its path, from a tiny world to its score."""

import importlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fbr import params, pipeline, track
from fbr.datasets.prepared import Prepared
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.masks.seeds import label_map
from fbr.stages.job import Job
from fbr.workspace import Workspace
from tests import checkout
from tests.pipeline import tiny

BEHIND = {
    "psa": {"crf_refine psa_seeds", "psa_train psa", "psa_infer psa", "mask_eval psa"},
    "superpixel": {"superpixel_refine superpixel", "mask_eval superpixel"},
    "none": {"cam_cut none", "mask_eval none"},
}
PLAIN = {"prepare", "cam_train", "cam_infer"}


def target(mask: str) -> str:
    return f"results/toy/s0/plain/{mask}/mask_eval/metrics.json"


def behind(mask: str) -> dict[str, tuple[str, dict[str, str]]]:
    """What stands behind a score, writers first, by stage and mask."""
    blocks = params.read(checkout.ROOT / "params.yaml")
    stages = pipeline.load(checkout.ROOT / "dvc.yaml")
    return {
        " ".join(filter(None, (stage.name, axes.get("mask")))): (stage.name, axes)
        for stage, axes in pipeline.upstream(target(mask), stages, blocks)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace in which all of it has run, in this process: eleven starts would take long."""
    folder = tmp_path_factory.mktemp("masks")
    shutil.copy(checkout.ROOT / "params.yaml", folder)
    checkout.edit(folder / "params.yaml", lambda blocks: tiny.shrink(blocks, train=8, val=2))
    numbers = params.load(folder / "params.yaml")
    for name, axes in {k: v for mask in BEHIND for k, v in behind(mask).items()}.values():
        job = Job(name, axes, numbers, Workspace(folder), threads=1)
        job.run = track.Run(0)
        importlib.import_module(f"fbr.stages.{name}").run(job)
    return folder


@pytest.mark.parametrize("mask", BEHIND)
def test_only_the_plain_maps_and_its_own_stages_stand_behind_it(mask):
    assert {*behind(mask)} == PLAIN | BEHIND[mask]


@pytest.mark.parametrize("mask", BEHIND)
def test_masks_show_classes_of_the_image_and_have_a_score(folder, mask):
    data = Prepared(folder / "data/toy")
    for entry in data.split("train"):
        path = folder / f"results/toy/s0/plain/{mask}/masks/{entry.id}.png"
        assert {*np.unique(data.ids(path, entry))} <= {0, *entry.classes}
    metrics = read_json(folder / target(mask))
    assert 0 < metrics["miou"] < 1
    assert (metrics["threshold"], metrics["threshold_choice"]) == (0.3, "fixed")
    assert (metrics["images"], metrics["crf"]) == (8, False)


def test_none_is_the_label_map(folder):
    results = folder / "results/toy/s0/plain"
    for file in sorted((results / "cam_infer/cams").glob("*.npz")):
        seen = maps.read(file)
        cut = pictures.read_mask(results / f"none/masks/{file.stem}.png")
        assert np.array_equal(cut, label_map(seen.full(), seen.keys, 0.3))


@pytest.mark.parametrize("mask", ["psa", "superpixel"])
def test_masks_are_swept(folder, mask):
    metrics = read_json(folder / target(mask))
    assert metrics["miou"] <= metrics["miou_oracle"]
    assert 0 <= metrics["threshold_oracle"] < 0.6


def test_psa_trains_by_its_three_losses(folder):
    history = folder / "results/toy/s0/plain/psa/psa_train/history.csv"
    columns = history.read_text().splitlines()[0].split(",")
    assert {"affinity_bg", "affinity_fg", "affinity_neg"} <= {*columns}


def test_maps_that_a_broken_training_leaves_empty_are_told(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    name, axes = behind("none")["cam_infer"]
    job = Job(name, axes, params.load(tmp_path / "params.yaml"), Workspace(tmp_path), threads=1)
    job.run = track.Run(0)
    importlib.import_module(f"fbr.stages.{name}").run(job)
    assert "zero everywhere" not in caplog.text
    model = job.path("cam_train", "model")
    tensors = load_file(model)
    tensors["classify.weight"] = -abs(tensors["classify.weight"])
    save_file(tensors, model)
    importlib.import_module(f"fbr.stages.{name}").run(job)
    assert "the maps of 8 of 8 images are zero everywhere" in caplog.text
    assert str(job.path("cam_train", "history")) in caplog.text
