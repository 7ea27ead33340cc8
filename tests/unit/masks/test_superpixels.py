"""Superpixels and their merging against a literal twin, and what regions make of maps."""

from itertools import islice

import numpy as np
import pytest

from fbr.masks.seeds import label_map
from fbr.masks.superpixels import Growing, grow, merges, over_segment, region_mask
from tests.reference import superpixels as twin

RNG = np.random.default_rng(0)


def photograph(height=40, width=60):
    """Two flat halves of other colours under noise."""
    image = np.full((height, width, 3), (200, 60, 40))
    image[:, width // 2 :] = (50, 90, 180)
    return (image + RNG.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


def blocks(height, width, side):
    """Square superpixels, numbered in reading order."""
    rows, columns = np.indices((height, width)) // side
    return np.unique(rows * width + columns, return_inverse=True)[1].reshape(height, width)


@pytest.mark.parametrize(
    "growing",
    [
        Growing(),
        Growing(scales=0, border=1),
        Growing(scales=2, border=2, border_share=0.2, small_first=0.0),
        Growing(border_share=1.0, small_first=2.0),
    ],
)
@pytest.mark.parametrize("size", [(8, 11), (1, 9), (7, 2)])
def test_the_order_of_merging_equals_the_twin(growing, size):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    labels = blocks(*size, 3)
    found = list(merges(image, labels, growing))
    expected = twin.merges(image, labels.tolist(), **vars(growing))
    assert [m[:2] for m in found] == [m[:2] for m in expected]
    np.testing.assert_allclose([m[2] for m in found], [m[2] for m in expected], atol=2e-6)


def test_superpixels_are_connected_and_about_as_many_as_asked_for():
    from skimage.measure import label

    labels = over_segment(photograph(), 40)
    count = labels.max() + 1
    assert 20 <= count <= 60
    assert [*np.unique(labels)] == [*range(count)]
    assert label(labels + 1, connectivity=1).max() == count


def test_noise_does_not_collapse_into_a_few_superpixels():
    noise = RNG.integers(0, 256, (60, 60, 3), np.uint8)
    assert over_segment(noise, 60, compactness=0.01, sigma=0).max() + 1 >= 30


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 3)])
def test_images_of_a_few_pixels_are_their_pixels_and_merge_into_one(size):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    labels = over_segment(image, 400)
    assert labels.tolist() == np.arange(labels.size).reshape(size).tolist()
    assert not grow(image, labels, Growing()).any()


def test_two_colours_are_found_and_numbered_from_the_first_pixel():
    image = photograph()
    regions = grow(image, over_segment(image, 60), Growing(), regions=2)
    truth = (np.arange(60) >= 30).astype(int)
    assert (regions == truth).mean() > 0.97
    assert regions[0, 0] == 0


def test_merging_stops_where_nothing_is_alike_enough():
    image = photograph()
    labels = over_segment(image, 60)
    assert grow(image, labels, Growing(), least=0.75).max() == 1
    assert np.array_equal(grow(image, labels, Growing(), least=1.1), labels)
    assert grow(image, labels, Growing(), regions=5).max() == 4


def test_one_colour_merges_small_regions_first():
    flat = np.full((9, 9, 3), 120, np.uint8)
    labels = blocks(9, 9, 3)
    labels[0, 0] = 9
    labels = np.unique(labels, return_inverse=True)[1].reshape(9, 9)
    first = next(merges(flat, labels, Growing()))
    assert labels[0, 0] in first[:2]
    assert len([*merges(flat, labels, Growing())]) == 9


def test_each_merge_takes_neighbours_and_the_rest_stays_as_it_was():
    image = photograph(20, 20)
    labels = blocks(20, 20, 5)
    for count, merge in enumerate(islice(merges(image, labels, Growing()), 6), start=1):
        assert merge.kept < merge.gone
        assert grow(image, labels, Growing(), regions=16 - count).max() == 15 - count


@pytest.mark.parametrize("keys", [[], [4], [2, 7]])
def test_single_pixels_vote_like_the_label_map(keys):
    cam = RNG.random((len(keys), 5, 6), np.float32)
    pixels = np.arange(30).reshape(5, 6)
    found = region_mask(cam, np.array(keys, np.uint8), pixels, 0.4)
    assert np.array_equal(found, label_map(cam, np.array(keys, np.uint8), 0.4))


def test_regions_vote_by_their_mean_and_close_votes_are_void():
    cam = np.zeros((2, 2, 4), np.float32)
    cam[0, :, :2] = [[1.0, 0.4], [0.4, 0.6]]  # 0.6 in the mean
    cam[1, :, :2], cam[1, :, 2:] = 0.55, 0.2
    regions = np.array([[0, 0, 1, 1]] * 2)
    keys = np.array([3, 9], np.uint8)
    assert region_mask(cam, keys, regions, 0.3).tolist() == [[3, 3, 0, 0]] * 2
    assert region_mask(cam, keys, regions, 0.3, 0.06).tolist() == [[255, 255, 0, 0]] * 2
    assert (region_mask(cam, keys, regions, 0.3, 0.2) == 255).all()


def test_without_a_class_there_is_nothing_to_be_unsure_of():
    found = region_mask(
        np.zeros((0, 2, 3), np.float32), np.zeros(0, np.uint8), np.zeros((2, 3), int), 0.3, 0.5
    )
    assert found.dtype == np.uint8
    assert not found.any()
