"""The VOC reader and a pretrained backbone on real photographs, where a developer has them."""

import contextlib
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from fbr.datasets import coco, voc
from fbr.datasets.prepared import Prepared, write_index
from fbr.files import pictures, weights
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import VOID, Crf, dense_crf, unary_from_labels
from fbr.nets import backbones
from fbr.nets.inputs import normalise
from fbr.params import CocoSource, VocSource
from fbr.stages.prepare import FOLDERS
from tests.checkout import ROOT

SHARED = Path(os.environ.get("FBR_REALDATA", ROOT.parent / "shared" / "data"))
ANIMALS = ["cat", "cow", "dog", "horse", "person", "sheep"]
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (SHARED / "voc-animals").is_dir(),
        reason="no folder of real photographs: set FBR_REALDATA to one",
    ),
]
COCO_MINI = SHARED / "coco-mini"


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("animals")
    source = VocSource(
        source="voc",
        root=str(SHARED / "voc-animals"),
        train_masks="SegmentationClassAug",
        classes=ANIMALS,
    )
    folders = {name: PartialFolder(folder / name, "") for name in FOLDERS}
    entries, names, _ = voc.build(source, ROOT, folders)
    for each in folders.values():
        each.finish()
    write_index(folder, entries, names)
    return Prepared(folder)


def test_the_subset_has_its_splits_labels_and_masks(animals):
    counts = {name: len(animals.split(name)) for name in ("train", "train_aug", "val")}
    assert counts == {"train": 437, "train_aug": 2437, "val": 245}
    assert animals.classes == ["background", *ANIMALS]
    for entry in animals.split("val")[:40]:
        seen = set(np.unique(animals.mask(entry))) - {0, 255}
        assert seen == set(entry.classes)
        assert animals.image(entry).shape[:2] == (entry.height, entry.width)


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="no piece of COCO: set FBR_REALDATA to one")
def test_a_piece_of_coco_is_painted_as_its_own_tools_do(tmp_path):
    base = tmp_path / "coco"
    (base / "annotations").mkdir(parents=True)
    for split in coco.SPLITS.values():
        (base / split).symlink_to(COCO_MINI / "images")
        shutil.copy(COCO_MINI / "instances.json", base / "annotations" / f"instances_{split}.json")
    source = CocoSource(source="coco", root=str(base), labels="json")
    folders = {name: PartialFolder(tmp_path / name, "") for name in FOLDERS}
    built = coco.build(source, ROOT, folders)
    assert len(built.names) == 81
    assert len(built.entries) == 2 * 56
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(COCO_MINI / "instances.json")
    number = {id: i for i, id in enumerate(sorted(index.getCatIds()), start=1)}
    for entry in built.entries[:56]:
        found = index.loadAnns(index.getAnnIds(int(entry.id)))
        assert entry.classes == tuple(sorted({number[a["category_id"]] for a in found}))
        mask = pictures.read_mask(folders["masks"] / f"{entry.id}.png")
        painted = np.zeros_like(mask)
        for one in sorted(found, key=lambda a: (not a["iscrowd"], -a["area"])):
            value = 255 if one["iscrowd"] else number[one["category_id"]]
            painted[index.annToMask(one) == 1] = value
        assert np.array_equal(mask, painted)


def test_pretrained_features_tell_cats_from_sheep(animals):
    """Weights in their place, colours in their order: nearest class mean beats chance by far."""
    state = weights.read(SHARED / "weights" / "mobilenet_v2.safetensors")
    backbone = backbones.build("mobilenet_v2", 32, weights={k: v.float() for k, v in state.items()})
    backbone.eval()

    def alone(name: str) -> list:
        id = 1 + ANIMALS.index(name)
        return [e for e in animals.split("train_aug") if e.classes == (id,)][:16]

    def feature(entry) -> torch.Tensor:
        image = animals.image(entry)
        side = min(image.shape[:2]) // 32 * 32
        with torch.inference_mode():
            maps = backbone(normalise(torch.from_numpy(image[:side, :side])[None]))
        return maps[-1].mean((2, 3))[0]

    features = [torch.stack([feature(e) for e in alone(name)]) for name in ("cat", "sheep")]
    means = torch.stack([f[:8].mean(0) for f in features])
    nearest = [torch.cdist(f[8:], means).argmin(1) for f in features]
    assert sum(int((found == i).sum()) for i, found in enumerate(nearest)) >= 14  # of 16


@pytest.mark.parametrize("settings", [Crf(), Crf(bilateral_sxy=80, bilateral_srgb=13)])
def test_engines_of_the_crf_agree(animals, settings):
    """On masks pushed off their objects, void left unsure."""
    for entry in animals.split("train")[::80]:
        mask = np.roll(animals.mask(entry), (7, -5), axis=(0, 1))
        labels = np.searchsorted([0, *entry.classes], mask).astype(np.uint8)
        labels[mask == VOID] = VOID
        unary = unary_from_labels(labels, 1 + len(entry.classes))
        image = animals.image(entry)
        ours, *others = (
            dense_crf(image, unary, replace(settings, engine=engine))
            for engine in ("numba", "torch", "pydensecrf")
        )
        for theirs in others:
            assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= 0.999
            assert np.abs(ours - theirs).mean() < 0.001
        assert (ours.argmax(axis=0) != labels)[labels != VOID].any()
