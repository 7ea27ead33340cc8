"""Masks of random walks are cut from the scores beside them, and swept by mask_eval."""

import numpy as np
import pytest
import torch

from fbr.errors import Refusal
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.masks.affinity import path_index
from fbr.masks.seeds import label_map
from fbr.metrics.semantic import Confusion
from fbr.params import MaskEval
from fbr.stages import irn_infer, mask_eval, networks, psa_infer
from fbr.track import Run
from tests.unit.stages.conftest import ENTRIES

GRID = (10, 12)


def blobs(rng, *shape):
    """Scores in 0…1 that are as smooth as maps are."""
    coarse = rng.random((shape[0], 4, 5), np.float32)
    return maps.resize(coarse, shape[1:]) if len(coarse) else coarse.reshape(shape)


@pytest.fixture(params=["irn", "psa"])
def walked(request, job, monkeypatch):
    """A workspace with maps, masks from a walk over made-up affinities, and the truth."""
    rng = np.random.default_rng(3)
    name = f"{request.param}_infer"
    made = job(name, mask=request.param)
    made.run = Run(0)
    radius = made.numbers.radius
    pairs = (len(path_index(radius).displacements), *GRID)
    edge, still = torch.from_numpy(blobs(rng, 1, *GRID)), np.full((1, 2, *GRID), 9, np.float32)
    monkeypatch.setattr(networks, "load", lambda model, device: (None, {}))
    monkeypatch.setattr(irn_infer, "relations", lambda *_: (edge, still))

    def close(*_):
        return torch.from_numpy(rng.random((1, *pairs), np.float32))

    monkeypatch.setattr(psa_infer, "affinities", close)
    made.path(f"{request.param}_train", "model").parent.mkdir(parents=True)
    made.path(f"{request.param}_train", "model").write_bytes(b"")
    for entry in ENTRIES:
        size = (entry.height, entry.width)
        seen = maps.Maps(
            np.array(entry.classes, np.uint8), blobs(rng, len(entry.classes), *GRID), size
        )
        maps.write(made.path("cam_infer", "cams") / f"{entry.id}.npz", seen)
        truth = rng.choice(np.array([0, *entry.classes, 255], np.uint8), size)
        pictures.write_mask(made.data.folder / "masks" / f"{entry.id}.png", truth)
    {"irn": irn_infer, "psa": psa_infer}[request.param].run(made)
    return made


def scored(job, walked):
    made = job("mask_eval", mask=walked.axes["mask"])
    made.numbers = MaskEval(split="train", also="train")
    made.run = Run(0)
    mask_eval.run(made)
    return made, read_json(made.out("metrics.json"))


def test_a_mask_is_cut_from_the_scores_beside_it(walked):
    shown = set()
    for entry in ENTRIES:
        scores = maps.read(walked.out("masks") / f"{entry.id}.npz")
        assert scores.keys.tolist() == list(entry.classes)
        assert scores.cam.shape == (len(entry.classes), *GRID)
        mask = pictures.read_mask(walked.out("masks") / f"{entry.id}.png")
        cut = label_map(scores.full(), scores.keys, walked.numbers.threshold)
        assert np.array_equal(mask, cut)
        shown |= {*np.unique(mask)}
    assert shown == {0, 1, 2}


def test_the_sweep_is_that_of_single_thresholds_and_at_the_recipe_s_own_that_of_the_masks(
    job, walked
):
    made, metrics = scored(job, walked)
    entries = made.data.split("train")
    _, curve = mask_eval.scored(made, entries, metrics["threshold"])
    assert curve.confusion(metrics["threshold"]).miou() == metrics["miou"]
    single = {}
    for threshold in curve.thresholds:
        confusion = Confusion(3)
        for entry in entries:
            scores = maps.read(walked.out("masks") / f"{entry.id}.npz")
            mask = label_map(scores.full(), scores.keys, threshold)
            confusion.update(mask, made.data.mask(entry))
        single[threshold] = confusion.miou()
    assert len(single) == 60
    assert metrics["miou_oracle"] == max(single.values())
    assert metrics["miou_oracle"] == single[metrics["threshold_oracle"]] > metrics["miou"]
    assert metrics["miou_oracle_train"] == metrics["miou_oracle"]
    assert "oracle" not in metrics


def test_where_some_masks_have_scores_all_must(job, walked):
    (walked.out("masks") / "b.npz").unlink()
    with pytest.raises(Refusal, match="missing, expected the maps of id 'b'"):
        scored(job, walked)
