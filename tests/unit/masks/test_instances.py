"""Instances from displacement fields against pixel-by-pixel forms, and their run-length codes."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import ndimage

from fbr.files.maps import resize
from fbr.masks.instances import (
    decode,
    detect,
    encode,
    instance_cams,
    label_instances,
    refine_centroids,
)
from fbr.masks.walk import random_walk
from tests.reference import instances as twin

RNG = np.random.default_rng(0)


def pointing(height, width, *spots):
    """Return a field in which each pixel points at the nearest of `spots`."""
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    ways = np.array([np.array(spot).reshape(2, 1, 1) - grid for spot in spots], np.float32)
    nearest = np.hypot(ways[:, 0], ways[:, 1]).argmin(axis=0)
    return np.take_along_axis(ways, nearest[None, None], axis=0)[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (7, 1), (2, 2), (7, 9)])
def test_refinement_equals_the_twin(size):
    field = RNG.normal(0, 2, (2, *size)).astype(np.float32)
    np.testing.assert_allclose(
        refine_centroids(field, 4), twin.refine_centroids(field, 4), atol=1e-3
    )


def test_refinement_adds_up_steps_that_fall_short():
    field = 0.1 * pointing(15, 15, (6, 8))
    ends = refine_centroids(field)
    np.testing.assert_allclose(ends[0], 6, atol=1e-2)
    np.testing.assert_allclose(ends[1], 8, atol=1e-2)
    np.testing.assert_allclose(ends, twin.refine_centroids(field, 300), atol=1e-2)


def test_refinement_takes_no_more_steps_than_asked_and_stays_inside():
    field = np.full((2, 6, 5), 1.0, np.float32)
    start = refine_centroids(np.zeros_like(field))
    np.testing.assert_array_equal(refine_centroids(field, 0), start)
    np.testing.assert_allclose(refine_centroids(field, 1)[:, :5, :4], start[:, :5, :4] + 1)
    np.testing.assert_allclose(refine_centroids(field)[:, 0, 0], [5, 4])


@pytest.mark.parametrize("size", [(1, 1), (3, 11), (12, 17)])
def test_labels_equal_the_twin(size):
    spots = RNG.uniform(0, 1, (2, 2)) * (np.array(size) - 1)
    field = 0.5 * pointing(*size, *spots) + RNG.normal(0, 0.1, (2, *size)).astype(np.float32)
    np.testing.assert_array_equal(
        label_instances(field, 1.5, 30), twin.label_instances(field, 1.5, 30)
    )


def test_two_spots_make_two_instances_that_share_every_pixel():
    field = pointing(20, 30, (10, 6), (9, 22))
    labels = label_instances(torch.from_numpy(field))
    assert sorted(np.unique(labels)) == [1, 2]
    assert len({labels[10, 6], labels[0, 0], labels[19, 12]}) == 1
    assert len({labels[9, 22], labels[0, 29], labels[19, 17]}) == 1


def test_centres_that_touch_at_a_corner_stay_two():
    field = np.full((2, 4, 4), 9.0, np.float32)
    field[:, :2, :2] = field[:, 2:, 2:] = 0
    labels = label_instances(field, steps=0)
    assert labels[0, 0] != labels[3, 3]


def test_pixels_that_leave_the_image_have_no_instance():
    field = np.stack([np.zeros((5, 8)), np.full((5, 8), 4.0)]).astype(np.float32)
    assert not label_instances(field).any()


def test_instance_cams_split_the_scores():
    cam = RNG.random((2, 4, 5), np.float32)
    cam[1, :, 3:] = 0
    labels = np.zeros((4, 5), int)
    labels[:, :2], labels[:, 3:] = 1, 4
    maps, class_ids = instance_cams(cam, np.array([3, 7]), labels)
    assert class_ids.tolist() == [3, 3, 3, 7, 7]
    np.testing.assert_allclose(maps[class_ids == 3].sum(axis=0), cam[0])
    np.testing.assert_allclose(maps[class_ids == 7].sum(axis=0), cam[1])
    assert all(len(np.unique(labels[m > 0])) == 1 for m in maps)


def test_instance_cams_of_nothing():
    maps, class_ids = instance_cams(np.zeros((2, 3, 3)), np.array([1, 2]), np.zeros((3, 3), int))
    assert maps.shape == (0, 3, 3)
    assert class_ids.shape == (0,)


SIZES = [(1, (1, 1)), (1, (9, 7)), (4, (13, 11)), (3, (1, 12)), (50, (13, 11))]


@pytest.mark.parametrize(("maps", "size"), SIZES)
@pytest.mark.parametrize("smallest", [0.0, 0.03, 0.2])
def test_detections_equal_the_twin(maps, size, smallest):
    scores = RNG.random((maps, *size)) ** 2
    class_ids = RNG.integers(1, 5, maps)
    found = detect(scores, class_ids, 0.3, smallest)
    expected = twin.detect(scores, class_ids, 0.3, smallest)
    assert len(found.masks) == len(found.class_ids) == len(found.scores) == len(expected)
    for mask, class_id, score, other in zip(*found, expected, strict=True):
        np.testing.assert_array_equal(mask, other[0])
        assert class_id == other[1]
        assert score == pytest.approx(other[2])


def test_maps_of_a_grid_are_detected_at_image_size():
    scores, ids = RNG.random((40, 5, 6), np.float32) ** 2, np.arange(40)
    found = detect(scores, ids, 0.3, size=(17, 23))
    for one, other in zip(found, detect(resize(scores, (17, 23)), ids, 0.3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.masks.shape[1:] == (17, 23)


def test_thousands_of_maps_take_no_more_memory_than_a_few():
    scores, ids = RNG.random((2000, 12, 16), np.float32), np.ones(2000, int)
    tracemalloc.start()
    detect(scores, ids, size=(96, 128))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8e6  # all of them at this size: 98 MB


def test_detections_do_not_depend_on_the_scale_of_the_scores():
    scores, class_ids = RNG.random((2, 9, 9)), np.array([1, 2])
    for one, other in zip(detect(scores, class_ids), detect(0.01 * scores, class_ids), strict=True):
        np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("maps", [0, 2])
def test_no_scores_no_detections(maps):
    found = detect(np.zeros((maps, 6, 7), np.float32), np.ones(maps, int))
    assert found.masks.shape == (0, 6, 7)
    assert len(found.class_ids) == len(found.scores) == 0


def test_two_discs_of_a_class_come_out_whole_from_partial_scores():
    field = pointing(30, 40, (14, 11), (15, 28))
    discs = [np.hypot(*pointing(30, 40, spot)) < 7 for spot in ((14, 11), (15, 28))]
    either = discs[0] | discs[1]
    edge = (ndimage.binary_dilation(either) & ~either).astype(np.float32)
    cam = np.zeros((1, 30, 40), np.float32)
    cam[0, 10:13, 8:12] = cam[0, 13:17, 29:31] = 1

    maps, class_ids = instance_cams(cam, np.array([4]), label_instances(field))
    walked = random_walk(torch.from_numpy(maps), torch.from_numpy(edge))
    found = detect(walked.numpy(), class_ids)
    assert found.class_ids.tolist() == [4, 4]
    for mask in found.masks:
        assert any(np.array_equal(mask, disc) for disc in discs)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 7)])
def test_codes_come_back_and_fit_in_json(size):
    for mask in (np.zeros(size, bool), np.ones(size, bool), RNG.random(size) > 0.5):
        code = json.loads(json.dumps(encode(mask)))
        assert code["size"] == list(size)
        np.testing.assert_array_equal(decode(code), mask)
