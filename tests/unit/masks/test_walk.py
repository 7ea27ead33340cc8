"""The random walk against powers of the dense transition matrix."""

import numpy as np
import pytest
import torch

from fbr.masks.affinity import edge_to_affinity, path_index
from fbr.masks.walk import TOGETHER, random_walk, spread
from tests.reference import walk as twin

RNG = torch.Generator().manual_seed(0)


def scene(maps, height, width, images=()):
    """Scores (*images, maps, h, w) and boundaries (*images, h, w)."""
    cam = torch.rand(*images, maps, height, width, generator=RNG)
    return cam, torch.rand(*images, height, width, generator=RNG) ** 4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (2, 3), (3, 4), (5, 4), (11, 13)])
@pytest.mark.parametrize(("beta", "exp_times", "radius"), [(10, 8, 5), (1, 0, 2), (8, 3, 3)])
def test_walk_equals_the_dense_form(size, beta, exp_times, radius):
    cam, edge = scene(2, *size)
    found = random_walk(cam, edge, beta, exp_times, radius)
    exact = twin.random_walk(cam.double().numpy(), edge.double().numpy(), beta, exp_times, radius)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-6)
    assert found.dtype == torch.float32


def test_without_boundaries_constant_scores_stay():
    cam = torch.full((1, 9, 7), 0.6)
    torch.testing.assert_close(random_walk(cam, torch.zeros(9, 7)), cam, rtol=1e-4, atol=0)


def test_scores_stay_inside_their_range():
    cam, edge = scene(3, 10, 12)
    start, end = cam * (1 - edge), random_walk(cam, edge)
    assert (end.amax((1, 2)) <= start.amax((1, 2))).all()
    assert (end.amin((1, 2)) >= start.amin((1, 2))).all()


def test_nothing_crosses_a_closed_boundary():
    cam = torch.zeros(1, 12, 12)
    cam[0, 2, 9] = 1
    spread = random_walk(cam, torch.eye(12))[0]
    assert not spread.tril().any()
    assert (spread[np.triu_indices(12, 1)] > 0).all()


def test_maps_walk_independently_and_none_is_fine():
    cam, edge = scene(3, 6, 5)
    together = random_walk(cam, edge)
    for number in range(3):
        assert torch.equal(together[number], random_walk(cam[[number]], edge)[0])
    assert random_walk(cam[:0], edge).shape == (0, 6, 5)


def test_more_maps_than_walk_at_a_time():
    cam, edge = scene(TOGETHER + 3, 5, 4)
    together = random_walk(cam, edge)
    assert together.shape == cam.shape
    for number in (0, TOGETHER - 1, TOGETHER, TOGETHER + 2):
        assert torch.equal(together[number], random_walk(cam[[number]], edge)[0])


@pytest.mark.parametrize("images", [(0,), (1,), (3,), (2, 2)])
def test_images_walk_together_as_they_do_alone(images):
    cam, edge = scene(2, 6, 5, images)
    together = random_walk(cam, edge)
    assert together.shape == cam.shape
    for place in np.ndindex(images):
        torch.testing.assert_close(together[place], random_walk(cam[place], edge[place]))


def test_inputs_stay_also_where_gradients_and_edits_are_forbidden():
    cam, edge = scene(1, 6, 5)
    before = cam.clone(), edge.clone()
    with torch.inference_mode():
        affinity = edge_to_affinity(edge[None, None], 5)[0]
    found = spread(cam * (1 - edge), affinity, 10, 8, 5)
    torch.testing.assert_close(found, random_walk(cam, edge))
    assert torch.equal(cam, before[0])
    assert torch.equal(edge, before[1])


def test_a_constant_map_stays_over_any_affinities_and_these_stay_too():
    affinity = torch.rand(len(path_index(3).displacements), 7, 9, generator=RNG)
    before = affinity.clone()
    constant = torch.full((2, 7, 9), 0.27)
    torch.testing.assert_close(spread(constant, affinity, 8, 6, 3), constant, rtol=1e-5, atol=0)
    assert torch.equal(affinity, before)
