"""SEAM's losses against one value at a time, and where views agree or nothing is shown."""

import pytest
import torch

from fbr.losses.equivariance import (
    best_alone,
    cross_equivariance,
    equivariance,
    least_activation,
)
from tests.reference import seam as twin

SIZES = [(1, 1, 4, 4), (3, 2, 5, 7), (2, 4, 4, 6)]


def example(images, classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    refined, maps = (
        torch.rand(images, channels, height, width, generator=generator)
        for channels in (1 + classes, classes)
    )
    return refined, maps


def same(found, expected, leaf, exact):
    """Values and gradients agree."""
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for loss in (found, expected):
        loss.backward()
    torch.testing.assert_close(leaf.grad.double().view_as(exact), exact.grad, atol=1e-6, rtol=1e-5)
    assert leaf.grad.any()


@pytest.mark.parametrize("size", SIZES)
def test_equivariance_is_the_equation(size):
    one, other = example(*size)[1].requires_grad_(), example(*size, seed=1)[1]
    exact = one.detach().double().requires_grad_()
    same(equivariance(one, other), twin.equivariance(exact, other.double()), one, exact)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_cross_equivariance_is_the_equation(size, share):
    refined, maps = example(*size)
    leaf, exact = refined.requires_grad_(), refined.detach().double().flatten(2).requires_grad_()
    other = maps.requires_grad_()
    expected = twin.cross_equivariance(exact, maps.detach().double().flatten(2), share)
    same(cross_equivariance(leaf, other, share), expected, leaf, exact)
    assert other.grad is None


@pytest.mark.parametrize("size", SIZES)
def test_least_activation_is_the_equation(size):
    maps = example(*size)[1]
    maps = (maps - 0.3).requires_grad_()
    exact = maps.detach().double().flatten(2).requires_grad_()
    found, expected = least_activation(maps), twin.least_activation(exact)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    assert found >= 0


def test_best_alone_of_four_by_four():
    cat = torch.tensor([[1.0, 0.8, 0.2, 0], [0.9, 0.5, 0.5, 0], [0, 0, 0.1, 0], [0, 0, 0, 0]])
    dog = torch.tensor([[0.2, 0.1, 0.6, 1], [0.3, 0.5, 0.4, 0], [0, 0, 0.7, 0], [0, 0, 0, 0]])
    found = best_alone(torch.stack([cat, dog])[None])[0]
    ground = [[0, 0.2, 0.4, 0], [0.1, 0.5, 0.5, 1], [1, 1, 0.3, 1], [1, 1, 1, 1]]
    only_cat = [[1, 0.8, 0, 0], [0.9, 0.5, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    only_dog = [[0, 0, 0.6, 1], [0, 0.5, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor([ground, only_cat, only_dog]))


def test_views_that_agree_cost_nothing():
    maps = example(2, 3, 4, 4)[1].relu()
    assert equivariance(maps, maps) == 0
    assert cross_equivariance(best_alone(maps), maps, 0.2) == 0


def test_nothing_shown_costs_nothing_and_stays_connected():
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    least_activation(maps).backward()
    assert least_activation(maps) == 0
    assert maps.grad.isfinite().all()


def test_one_pixel():
    refined, maps = example(1, 2, 1, 1)
    expected = (best_alone(maps) - refined).abs().max()
    assert cross_equivariance(refined, maps, 0.2) == pytest.approx(expected.item())
    assert least_activation(maps) == maps.max()
