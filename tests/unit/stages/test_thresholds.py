"""Masks of random walks are cut from the scores beside them, and swept by mask_eval."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fbr.errors import Refusal
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.masks.affinity import path_index
from fbr.masks.crf import Crf, dense_crf
from fbr.masks.seeds import label_map
from fbr.masks.superpixels import Growing, grow, over_segment, region_means
from fbr.metrics.semantic import Confusion, ThresholdCurve
from fbr.params import MaskEval
from fbr.positions import Positions
from fbr.stages import (
    cam_cut,
    cam_eval,
    crf_refine,
    irn_infer,
    mask_eval,
    networks,
    psa_infer,
    superpixel_refine,
)
from fbr.stages.thresholds import SWEPT, sweep, write_swept
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
    network = SimpleNamespace(positions=Positions(4))
    monkeypatch.setattr(networks, "load", lambda model, device: (network, {}))
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


@pytest.mark.parametrize("classes", [0, 1, 3])
def test_what_is_kept_for_a_sweep_decides_as_the_scores_do(tmp_path, classes):
    rng = np.random.default_rng(classes)
    scores = rng.random((classes, 9, 7), np.float32)
    # Scores that lie on a threshold, or equal each other, are where rounding would show.
    scores[:, :4] = rng.choice(SWEPT.astype(np.float32), scores[:, :4].shape)
    keys = np.arange(1, 1 + classes, dtype=np.uint8)
    target = rng.integers(0, 4, (9, 7), np.uint8)
    write_swept(tmp_path / "a.npz", keys, scores)
    kept = maps.read(tmp_path / "a.npz")
    assert kept.size == (9, 7)
    curves = []
    for cam in (scores, kept.full()):
        curves.append(ThresholdCurve(4, SWEPT))
        curves[-1].update(cam, keys, target)
    for threshold in SWEPT:
        one, other = (curve.confusion(threshold).counts for curve in curves)
        assert np.array_equal(one, other)


def test_maps_that_are_only_cut_have_the_oracle_of_the_maps(job):
    rng = np.random.default_rng(4)
    made, evaluated = job("cam_cut", mask="none"), job("cam_eval")
    made.run = evaluated.run = Run(0)
    evaluated.numbers = evaluated.numbers.model_copy(update={"also": None})
    for entry in ENTRIES:
        size, k = (entry.height, entry.width), len(entry.classes)
        seen = maps.Maps(np.array(entry.classes, np.uint8), blobs(rng, k, *GRID), size)
        maps.write(made.path("cam_infer", "cams") / f"{entry.id}.npz", seen)
        truth = rng.choice(np.array([0, *entry.classes, 255], np.uint8), size)
        pictures.write_mask(made.data.folder / "masks" / f"{entry.id}.png", truth)
    cam_cut.run(made)
    cam_eval.run(evaluated)
    of_maps = read_json(evaluated.out("metrics.json"))
    _, of_masks = scored(job, made)
    names = ("miou_oracle", "threshold_oracle")
    assert [of_masks[name] for name in names] == [of_maps[name] for name in names]


@pytest.fixture(params=["crf", "crf_ppc", "superpixel"])
def refined(request, job):
    """A workspace with maps, masks of a CRF or of superpixels, and the truth."""
    rng = np.random.default_rng(4)
    name = "superpixel_refine" if request.param == "superpixel" else "crf_refine"
    made = job(name, mask=request.param)
    made.run = Run(0)
    for entry in ENTRIES:
        size = (entry.height, entry.width)
        cam = blobs(rng, len(entry.classes), *GRID)
        seen = maps.Maps(np.array(entry.classes, np.uint8), cam, size)
        maps.write(made.path("cam_infer", "cams") / f"{entry.id}.npz", seen)
        truth = rng.choice(np.array([0, *entry.classes, 255], np.uint8), size)
        pictures.write_mask(made.data.folder / "masks" / f"{entry.id}.png", truth)
    {"crf_refine": crf_refine, "superpixel_refine": superpixel_refine}[name].run(made)
    return made


def test_what_is_swept_behind_a_refined_mask_is_what_it_comes_from(job, refined):
    _, metrics = scored(job, refined)
    n, curve = refined.numbers, sweep(3, None)
    for entry in refined.data.split("train"):
        seen = maps.read(refined.path("cam_infer", "cams") / f"{entry.id}.npz")
        image = refined.data.image(entry)
        if refined.axes["mask"] == "superpixel":
            superpixels = over_segment(image, n.superpixels, n.compactness, n.sigma)
            growing = Growing(n.scales, n.border, n.border_share, n.small_first)
            regions = grow(image, superpixels, growing, n.regions, n.least)
            found = region_means(seen.full(), regions)[:, 0, regions]
        else:
            work = crf_refine._Work(None, None, None, None, n)
            energy = work.energies(seen)[0]
            found = dense_crf(image, energy, Crf(**n.crf.model_dump()))[1:]
        curve.update(found, seen.keys, refined.data.mask(entry))
    threshold, best = curve.best()
    assert metrics["miou_oracle"] == metrics["miou_oracle_train"] == best
    assert metrics["threshold_oracle"] == threshold
    assert ("oracle" in metrics) == (refined.axes["mask"] != "superpixel")
