"""Affinities, pair labels and differences against pairs visited one by one."""

import numpy as np
import pytest
import torch

from fbr.masks.affinity import (
    edge_to_affinity,
    feature_affinity,
    pair_difference,
    pair_labels,
    path_index,
)
from tests.reference import affinity as twin
from tests.reference import psa

SIZES = [(1, 1), (1, 9), (7, 1), (2, 3), (9, 8)]


def inside(height, width, radius):
    """Return a mask (P, h, w) of the pairs whose second pixel is in the map."""
    steps = path_index(radius).displacements
    mask = torch.zeros(len(steps), height, width, dtype=torch.bool)
    for (y, x), step in twin.pairs(height, width, radius):
        mask[steps.index(step), y, x] = True
    return mask


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_path_index_holds_each_pair_of_the_disc_once(radius):
    steps = path_index(radius).displacements
    both_ways = {*steps, *((-dy, -dx) for dy, dx in steps)}
    disc = {
        (dy, dx)
        for dy in range(-radius, radius + 1)
        for dx in range(-radius, radius + 1)
        if 0 < dy * dy + dx * dx < radius * radius
    }
    assert both_ways == disc
    assert 2 * len(steps) == len(disc)


def test_paths_hold_both_ends_and_stay_in_the_box():
    index = path_index(5)
    for (dy, dx), path in zip(index.displacements, index.paths, strict=True):
        assert {(0, 0), (dy, dx)} <= set(path)
        assert all(0 <= y <= dy and min(0, dx) <= x <= max(0, dx) for y, x in path)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("radius", [2, 5])
def test_affinity_equals_the_twin_and_is_zero_outside(size, radius):
    edge = torch.rand(2, 1, *size)
    affinity = edge_to_affinity(edge, radius)
    steps = path_index(radius).displacements
    expected = torch.zeros(2, len(steps), *size)
    for image in range(2):
        for (y, x), step in twin.pairs(*size, radius):
            value = twin.affinity(edge[image, 0].numpy(), (y, x), step)
            expected[image, steps.index(step), y, x] = value
    torch.testing.assert_close(affinity, expected)


def test_a_thin_diagonal_boundary_does_not_leak():
    edge = torch.eye(12)[None, None]
    affinity = edge_to_affinity(edge, 5)[0]
    steps = path_index(5).displacements
    for (y, x), (dy, dx) in twin.pairs(12, 12, 5):
        if (y - x) * (y + dy - x - dx) < 0:
            assert affinity[steps.index((dy, dx)), y, x] == 0


def test_affinity_follows_a_horizontal_flip():
    edge = torch.rand(1, 1, 7, 9)
    steps = path_index(4).displacements
    plain, flipped = (edge_to_affinity(e, 4)[0] for e in (edge, edge.flip(-1)))
    downwards = [(number, step) for number, step in enumerate(steps) if step[0] > 0]
    for number, (dy, dx) in downwards:
        mirrored = flipped[steps.index((dy, -dx))].flip(-1)
        torch.testing.assert_close(plain[number], mirrored)


def test_affinity_sends_its_gradient_to_the_strongest_boundary_only():
    edge = torch.tensor([[0.1, 0.7, 0.2, 0.3]]).view(1, 1, 1, 4).requires_grad_()
    steps = path_index(4).displacements
    edge_to_affinity(edge, 4)[0, steps.index((0, 3)), 0, 0].backward()
    assert edge.grad.flatten().tolist() == [0, -1, 0, 0]


@pytest.mark.parametrize("size", SIZES)
def test_pair_labels_equal_the_twin(size):
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], (2, *size)))
    masks = pair_labels(labels, 5)
    steps = path_index(5).displacements
    expected = {name: torch.zeros_like(mask) for name, mask in masks._asdict().items()}
    for image in range(2):
        for (y, x), step in twin.pairs(*size, 5):
            if name := twin.kind(labels[image].tolist(), (y, x), step):
                expected[name][image, steps.index(step), y, x] = True
    for name, mask in masks._asdict().items():
        assert torch.equal(mask, expected[name]), name


def test_pair_labels_of_one_class_cover_every_pair_inside():
    for value, name in ((0, "background"), (3, "foreground")):
        masks = pair_labels(torch.full((1, 6, 5), value), 3)
        assert torch.equal(getattr(masks, name)[0], inside(6, 5, 3))
        assert sum(int(mask.sum()) for mask in masks) == int(inside(6, 5, 3).sum())


def test_pair_labels_of_void_are_empty_whatever_the_integer_type():
    for dtype in (torch.uint8, torch.int64):
        assert not any(mask.any() for mask in pair_labels(torch.full((1, 4, 4), 255).to(dtype), 3))


def test_pair_difference_is_first_minus_second():
    field = torch.rand(2, 2, 5, 7)
    difference = pair_difference(field, 3)
    steps = path_index(3).displacements
    for (y, x), (dy, dx) in twin.pairs(5, 7, 3):
        found = difference[:, :, steps.index((dy, dx)), y, x]
        torch.testing.assert_close(found, field[:, :, y, x] - field[:, :, y + dy, x + dx])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("radius", "channels"), [(2, 1), (5, 3)])
def test_affinity_of_features_equals_the_twin_and_is_zero_outside(size, radius, channels):
    features = torch.randn(2, channels, *size)
    steps = path_index(radius).displacements
    expected = torch.zeros(2, len(steps), *size)
    for image in range(2):
        for (y, x), step in twin.pairs(*size, radius):
            value = psa.affinity(features[image].numpy(), (y, x), step)
            expected[image, steps.index(step), y, x] = value
    torch.testing.assert_close(feature_affinity(features, radius), expected)


def test_equal_features_are_one_and_gradients_are_finite_at_the_border():
    features = torch.full((1, 4, 5, 6), 3.0, requires_grad=True)
    affinity = feature_affinity(features, 3)
    assert torch.equal(affinity[0] == 1, inside(5, 6, 3))
    (affinity.sum() - torch.log(1 + 1e-5 - affinity).sum()).backward()
    assert features.grad.isfinite().all()
