"""A folder of one's own, without any ground truth, through every stage to the report."""

import copy
import json
import logging
import shutil
from pathlib import Path

import pytest

from fbr import cli
from fbr.datasets import toy
from fbr.files import pictures
from tests import checkout
from tests.pipeline import tiny
from tests.pipeline.test_bad_input import at_home

CAM = ("mine", "s0", "plain")
WAY = [
    ("prepare", "mine"),
    ("cam_train", *CAM),
    ("cam_infer", *CAM),
    ("cam_eval", *CAM),
    ("crf_refine", *CAM, "crf"),
    ("irn_train", *CAM, "irn"),
    ("irn_infer", *CAM, "irn"),
    ("mask_eval", *CAM, "irn"),
    ("seg_train", *CAM, "irn", "deeplabv2"),
    ("seg_eval", *CAM, "irn", "deeplabv2"),
    ("wsis_train", *CAM, "maskrcnn"),
    ("wsis_eval", *CAM, "maskrcnn"),
    ("report", "mine"),
]
EVALUATIONS = {
    "cam_eval": "results/mine/s0/plain/cam_eval",
    "mask_eval": "results/mine/s0/plain/irn/mask_eval",
    "seg_eval": "results/mine/s0/plain/irn/deeplabv2/seg_eval",
    "wsis_eval": "results/mine/s0/plain/maskrcnn/wsis_eval",
}


def photographs(folder: Path) -> None:
    """Six images and a CSV; the last one is only looked at."""
    world, lines = toy.World(size=56, size_jitter=4), ["id,labels,split"]
    for index in range(6):
        scene = toy.draw(world, 5, index)
        pictures.write_jpeg(folder / "images" / f"photo {index}.jpg".replace(" ", "-"), scene.image)
        labels = ";".join(toy.CLASSES[c - 1] for c in scene.classes)
        lines.append(f"photo-{index},{labels},{'val' if index == 5 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def add_mine(blocks: dict) -> None:
    """The toy's recipes, two steps each, for a dataset called mine."""
    tiny.shrink(blocks)
    for recipe in tiny.recipes(blocks):
        for stage in recipe.keys() & tiny.STEPS.keys():
            recipe[stage].update(steps=2, batch=2, crop=48, warmup=1)
    source = {"source": "folder", "images": "mine/images", "table": "mine/labels.csv"}
    blocks["data"]["mine"] = copy.deepcopy(blocks["data"]["toy"]) | {"prepare": source}
    for axis in ("cam", "mask", "seg", "inst"):
        for variant in blocks[axis].values():
            if "toy" in variant:
                variant["mine"] = copy.deepcopy(variant["toy"])


@pytest.fixture
def home(tmp_path):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(checkout.ROOT / name, tmp_path)
    photographs(tmp_path / "mine")
    checkout.edit(tmp_path / "params.yaml", add_mine)
    with at_home(tmp_path):
        yield tmp_path


def test_every_stage_runs_and_evaluations_say_that_they_cannot_score(home, caplog, capsys):
    with caplog.at_level(logging.INFO, "fbr"):
        for command in WAY:
            assert cli.main(list(command)) == 0, capsys.readouterr().err
    for stage, folder in EVALUATIONS.items():
        metrics = json.loads((home / folder / "metrics.json").read_text())
        assert metrics["ground_truth"] is False
        assert not {"miou", "AP50"} & metrics.keys()
        assert any(f"{stage}: not scored: no image of split" in line for line in caplog.messages)
    predicted = home / EVALUATIONS["seg_eval"] / "pred"
    assert [p.name for p in predicted.iterdir()] == ["photo-5.png"]
    assert (home / EVALUATIONS["wsis_eval"] / "detections.json").is_file()
    table = (home / "reports/mine/tables.md").read_text()
    assert table.count("no ground truth: not scored") == 4
    assert list((home / "reports/mine/overlays").glob("photo-*.jpg"))
    shown = capsys.readouterr().out
    assert "no ground truth: not scored" in shown
