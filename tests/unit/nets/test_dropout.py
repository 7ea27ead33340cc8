"""Dropout from few bits: its share, its mean, and who gets a gradient."""

import pytest
import torch

from fbr.nets.dropout import BitDropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(200_000,), (4, 50, 25, 40)])
def test_the_share_is_dropped_and_the_mean_stays(share, shape):
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    dropped = BitDropout(share).train()(x)
    left = dropped != 0
    # Five standard deviations of a binomial share.
    assert abs(1 - left.float().mean() - share) < 5 * (share * (1 - share) / x.numel()) ** 0.5
    torch.testing.assert_close(
        dropped[left], torch.full_like(dropped[left], 1 / (1 - share)), rtol=1e-4, atol=0
    )
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_neighbours_and_channels_are_dropped_independently():
    torch.manual_seed(0)
    left = (BitDropout(0.5).train()(torch.ones(8, 64, 32, 32)) != 0).float() - 0.5
    for dim in range(4):
        assert abs(4 * (left * left.roll(1, dim)).mean()) < 5 / left.numel() ** 0.5


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1, 3, 1, 1), (2, 3, 5, 7)])
def test_any_shape_and_layout(shape):
    torch.manual_seed(0)
    x = torch.rand(shape) + 1
    found = BitDropout(0.3).train()(x)
    assert found.shape == x.shape
    left = found != 0
    torch.testing.assert_close(found[left], x[left] / 0.7, rtol=1e-4, atol=0)


def test_it_rests_in_inference_and_where_nothing_is_to_drop():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(BitDropout(0.9).eval()(x), x)
    assert torch.equal(BitDropout(0.0).train()(x), x)
    assert torch.equal(BitDropout(1.0).train()(x), torch.zeros_like(x))


def test_a_step_s_seed_decides():
    x = torch.ones(1000)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(BitDropout(0.5).train()(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
