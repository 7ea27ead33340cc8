"""Parallel dilated convolutions: the product at once against the convolutions one by one."""

import pytest
import torch

from fbr.nets.aspp import Aspp


def literal(branches, x):
    return sum(branch(x) for branch in branches)


def made(inputs, outputs, rates):
    torch.manual_seed(0)
    branches = Aspp(inputs, outputs, rates, 0.1)
    for branch in branches:
        torch.nn.init.normal_(branch.bias)
    return branches


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (5, 5), (13, 9)])
@pytest.mark.parametrize(("outputs", "rates"), [(1, [1]), (2, [1, 2]), (3, [2, 4, 6, 8])])
def test_scores_and_gradients_are_those_of_the_convolutions(size, outputs, rates):
    branches = made(128, outputs, rates)
    found = {}
    for way in (branches, lambda x: literal(branches, x)):
        x = torch.randn(2, 128, *size, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        scores = way(x)
        weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
        (scores * weight).sum().backward()
        found[way] = [scores, x.grad, *(p.grad.clone() for p in branches.parameters())]
        branches.zero_grad()
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inputs", "at_once"), [(73, True), (72, False)])
def test_the_product_is_taken_where_it_is_narrower_than_the_input(inputs, at_once, monkeypatch):
    branches = made(inputs, 2, [1, 2, 3, 4])
    asked = []
    monkeypatch.setattr(Aspp, "_at_once", lambda self, x: asked.append(x))
    branches(torch.randn(1, inputs, 4, 4))
    assert bool(asked) == at_once


def test_half_precision_loses_no_more_than_the_convolutions_do():
    branches = made(512, 3, [1, 2, 3, 4])
    x = torch.rand(2, 512, 12, 12)
    with torch.no_grad():
        exact = literal(branches, x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = branches(x), literal(branches, x)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() <= (theirs - exact).abs().max()


def test_weights_keep_their_names():
    assert list(made(4, 2, [1, 2]).state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
