"""The random walk against powers of the dense transition matrix."""

import numpy as np
import pytest
import torch

from fbr.masks.affinity import path_index
from fbr.masks.walk import random_walk, spread
from tests.reference import walk as twin

RNG = np.random.default_rng(0)


def scene(maps, height, width):
    cam = RNG.random((maps, height, width), np.float32)
    return cam, RNG.random((height, width), np.float32) ** 4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (2, 3), (3, 4), (11, 13)])
@pytest.mark.parametrize(("beta", "exp_times", "radius"), [(10, 8, 5), (1, 0, 2), (8, 3, 3)])
def test_walk_equals_the_dense_form(size, beta, exp_times, radius):
    cam, edge = scene(2, *size)
    found = random_walk(cam, edge, beta, exp_times, radius)
    expected = twin.random_walk(cam.astype(float), edge.astype(float), beta, exp_times, radius)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float32


def test_without_boundaries_constant_scores_stay():
    cam = np.full((1, 9, 7), 0.6, np.float32)
    np.testing.assert_allclose(random_walk(cam, np.zeros((9, 7))), cam, rtol=1e-4)


def test_scores_stay_inside_their_range():
    cam, edge = scene(3, 10, 12)
    start, end = cam * (1 - edge), random_walk(cam, edge)
    assert (end.max(axis=(1, 2)) <= start.max(axis=(1, 2))).all()
    assert (end.min(axis=(1, 2)) >= start.min(axis=(1, 2))).all()


def test_nothing_crosses_a_closed_boundary():
    edge = np.zeros((12, 12), np.float32)
    edge[np.arange(12), np.arange(12)] = 1
    cam = np.zeros((1, 12, 12), np.float32)
    cam[0, 2, 9] = 1
    spread = random_walk(cam, edge)[0]
    assert not np.tril(spread).any()
    assert (spread[np.triu_indices(12, 1)] > 0).all()


def test_maps_walk_independently_and_none_is_fine():
    cam, edge = scene(3, 6, 5)
    together = random_walk(cam, edge)
    for number in range(3):
        np.testing.assert_array_equal(together[number], random_walk(cam[[number]], edge)[0])
    assert random_walk(cam[:0], edge).shape == (0, 6, 5)


def test_a_torch_boundary_serves_and_inputs_stay():
    cam, edge = scene(1, 6, 5)
    cam_before, edge_before = cam.copy(), edge.copy()
    np.testing.assert_array_equal(
        random_walk(cam, torch.from_numpy(edge)), random_walk(cam, edge.astype(np.float64))
    )
    np.testing.assert_array_equal(cam, cam_before)
    np.testing.assert_array_equal(edge, edge_before)


def test_a_constant_map_stays_over_any_affinities_and_these_stay_too():
    pairs = len(path_index(3).displacements)
    affinity = RNG.random((pairs, 7, 9), np.float32)
    before = affinity.copy()
    constant = np.full((2, 7, 9), 0.27, np.float32)
    np.testing.assert_allclose(spread(constant, affinity, 8, 6, 3), constant, rtol=1e-5)
    np.testing.assert_array_equal(affinity, before)
