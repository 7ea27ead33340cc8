from dataclasses import replace

import numpy as np
import pytest

from fbr.masks.crf import Crf, dense_crf, unary_from_labels
from fbr.masks.seeds import (
    confident_seeds,
    crf_masks,
    label_energies,
    label_map,
    score_energies,
)
from tests.reference import seeds as reference

QUICK = Crf(iterations=3)
SIZES = [(1, 1), (1, 9), (13, 17)]


def example(size, k, kind=np.float32, seed=0):
    """An image that the CRF partly smooths over, scores with many ties, k ids in no order."""
    random = np.random.default_rng(seed)
    image = random.integers(100, 150, (*size, 3), dtype=np.uint8)
    cam = (random.integers(0, 11, (k, *size)) / 10).astype(kind)
    return image, cam, random.permutation(np.arange(1, 21, dtype=np.uint8))[:k]


def crf_mask(image, cam, keys, threshold, settings, confidence=0.7):
    """One image, one pass."""
    return alone(image, label_energies(cam, threshold, confidence), keys, settings)


def alone(image, energies, keys, settings):
    ((mask,),) = crf_masks([image], [energies[None]], [keys], settings)
    return mask


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_label_map_is_the_rule(size, k, kind, threshold):
    _, cam, keys = example(size, k, kind)
    labels = label_map(cam, keys, threshold)
    assert labels.dtype == np.uint8
    exact = reference.label_map(cam.astype(np.float32), keys, np.float32(threshold))
    assert labels.tolist() == exact


def test_ties_go_to_background_then_to_the_first_map():
    cam = np.array([[[0.5, 0.6]], [[0.5, 0.6]]])
    assert label_map(cam, np.array([9, 3]), 0.5).tolist() == [[0, 9]]


@pytest.mark.parametrize("size", SIZES)
def test_without_classes_everything_is_background(size):
    image, cam, keys = example(size, 0)
    assert not crf_mask(image, cam, keys, 0.3, QUICK).any()
    passes = [crf_mask(image, cam, keys, threshold, QUICK) for threshold in (0.3, 0.05)]
    assert not confident_seeds(*passes).any()


def test_crf_sees_only_the_classes_of_the_image():
    image, cam, keys = example((13, 17), 3)
    local = reference.label_map(cam, [1, 2, 3], np.float32(0.4))
    masks = {}
    for confidence in (0.5, 0.9):
        unary = unary_from_labels(np.array(local), 4, confidence)
        expected = np.array([0, *keys])[dense_crf(image, unary, QUICK).argmax(axis=0)]
        masks[confidence] = crf_mask(image, cam, keys, 0.4, QUICK, confidence)
        assert masks[confidence].dtype == np.uint8
        assert np.array_equal(masks[confidence], expected)
    assert (masks[0.5] != masks[0.9]).any()


def test_order_of_the_maps_does_not_matter():
    image, cam, keys = example((13, 17), 3)
    cam = cam + np.random.default_rng(1).random(cam.shape, np.float32) / 100
    ahead = crf_mask(image, cam, keys, 0.4, QUICK)
    assert np.array_equal(ahead, crf_mask(image, cam[::-1], keys[::-1], 0.4, QUICK))


def test_without_smoothing_the_mask_is_the_label_map():
    image, cam, keys = example((13, 17), 4)
    still = Crf(gaussian_compat=0, bilateral_compat=0)
    assert np.array_equal(crf_mask(image, cam, keys, 0.4, still), label_map(cam, keys, 0.4))


@pytest.mark.parametrize("power", [0.5, 8.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_crf_that_sees_scores_starts_from_them_and_background_s(size, k, power):
    image, cam, keys = example(size, k)
    energies = reference.score_energies(cam, power)
    expected = np.array([0, *keys])[dense_crf(image, energies, QUICK).argmax(axis=0)]
    mask = alone(image, score_energies(cam, power), keys, QUICK)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_more_power_leaves_less_background(kind):
    image, cam, keys = example((13, 17), 1, kind)
    cam = cam + kind(1e-3)  # where resizing rounds up, a score is above 1
    still = Crf(gaussian_compat=0, bilateral_compat=0)
    for power in (1.0, 8.0):
        least = next(t for t in np.arange(0, 1, 1e-3) if t >= (1 - t) ** power)
        mask = alone(image, score_energies(cam, power), keys, still)
        assert np.array_equal(mask, label_map(cam, keys, least))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 3])
def test_seeds_are_the_rule_over_two_passes(size, k):
    image, cam, keys = example(size, k)
    passes = [crf_mask(image, cam, keys, threshold, QUICK) for threshold in (0.7, 0.4)]
    seeds = confident_seeds(*passes)
    assert seeds.dtype == np.uint8
    assert seeds.tolist() == reference.confident(*passes)
    if size == (13, 17):
        assert set(np.unique(seeds)) == {0, *keys, 255}


def test_seeds_show_class_doubt_and_background():
    """A score falling from left to right: sure of the class, unsure, sure of background."""
    image = np.full((12, 30, 3), 90, np.uint8)
    cam = np.broadcast_to(np.linspace(1, 0, 30, dtype=np.float32), (1, 12, 30))
    still = Crf(gaussian_compat=0, bilateral_compat=0)
    passes = [crf_mask(image, cam, np.array([7]), threshold, still) for threshold in (0.6, 0.2)]
    seeds = confident_seeds(*passes)
    assert (seeds == seeds[0]).all()
    assert np.unique(seeds).tolist() == [0, 7, 255]
    assert seeds[0].tolist() == [7] * 12 + [255] * 12 + [0] * 6


@pytest.mark.parametrize("engine", ["numba", "torch", "pydensecrf"])
def test_images_of_several_sizes_and_classes_come_out_as_alone(engine):
    settings = replace(QUICK, engine=engine)
    scenes = [example(size, k, seed=k) for size, k in zip(SIZES, (2, 0, 3), strict=True)]
    thresholds = (0.3, 0.7, 0.4)
    images, cams, keys = zip(*scenes, strict=True)
    energies = [np.stack([label_energies(cam, t) for t in thresholds]) for cam in cams]
    together = crf_masks(images, energies, keys, settings)
    for scene, masks in zip(scenes, together, strict=True):
        assert masks.dtype == np.uint8
        assert np.array_equal(masks, [crf_mask(*scene, t, settings) for t in thresholds])
