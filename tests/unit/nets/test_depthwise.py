"""Depthwise convolutions by another way: the same numbers and the same gradients."""

import pytest
import torch
from torch import nn

from fbr.nets import backbones
from fbr.nets.depthwise import Depthwise, apart, take, together


def pair(stride=1, gap=1, kernel=3, channels=4) -> tuple[nn.Conv2d, Depthwise]:
    """A convolution as torch has it, and ours with the same weights."""
    torch.manual_seed(0)
    padding = gap * (kernel // 2)
    plain = nn.Conv2d(channels, channels, kernel, stride, padding, gap, channels)
    ours = nn.Sequential(nn.Conv2d(channels, channels, kernel, stride, padding, gap, channels))
    ours[0].load_state_dict(plain.state_dict())
    return plain, take(ours)[0]


def gradients(layer, x, bfloat16=False) -> list[torch.Tensor]:
    """The layer's result, and the gradients of its input, weight and bias."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        y = layer(x.bfloat16() if bfloat16 else x)
    pull = torch.linspace(-1, 1, y.numel()).view(y.shape)
    (y.float() * pull).sum().backward()
    return [y, x.grad, layer.weight.grad, layer.bias.grad]


@pytest.mark.parametrize(("stride", "gap", "kernel"), [(1, 2, 3), (1, 4, 3), (1, 3, 5), (2, 1, 3)])
@pytest.mark.parametrize("size", [(15, 15), (8, 12), (7, 10), (1, 1), (2, 9)])
@pytest.mark.parametrize("images", [1, 3])
def test_result_and_gradients_are_those_of_torch(stride, gap, kernel, size, images):
    plain, ours = pair(stride, gap, kernel)
    assert type(ours) is Depthwise
    x = torch.randn(images, 4, *size, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(gradients(ours, x), gradients(plain, x), strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize(("stride", "gap"), [(1, 2), (2, 1)])
def test_in_bfloat16_it_is_near_single_precision(stride, gap):
    plain, ours = pair(stride, gap, channels=16)
    x = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last)
    exact, mine = gradients(plain, x), gradients(ours, x, bfloat16=True)
    assert mine[0].dtype == torch.bfloat16
    for right, found in zip(exact, mine, strict=True):
        assert (found.float() - right).abs().max() < 2e-2 * right.abs().max()


def test_memory_stays_channels_last():
    _, ours = pair(gap=2)
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("gap", [2, 3])
@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 4)])
def test_what_is_taken_apart_comes_together(gap, size):
    x = torch.randn(2, 3, *size)
    parts = apart(x, gap)
    assert parts.shape == (gap**2 * 2, 3, -(-size[0] // gap), -(-size[1] // gap))
    assert torch.equal(together(parts, gap)[:, :, : size[0], : size[1]], x)


def test_where_nothing_learns_it_is_torch_s_own(monkeypatch):
    """Frozen levels and inference have no backward pass to wait for, and export sees one layer."""
    _, ours = pair(gap=2)
    monkeypatch.setattr("fbr.nets.depthwise.apart", lambda *_: pytest.fail("another way"))
    x = torch.randn(1, 4, 6, 6)
    with torch.inference_mode():
        ours(x)
    ours.eval()(x)
    ours.train().requires_grad_(False)(x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),  # fast as it is
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),  # not depthwise
        nn.Conv2d(1, 1, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4),  # smaller than its input
        nn.Conv2d(4, 4, 3, padding=(2, 3), dilation=(2, 3), groups=4),
        nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=4),
    ],
)
def test_others_stay_as_they_are(layer):
    assert type(take(nn.Sequential(layer))[0]) is nn.Conv2d


def test_mobilenet_has_them_where_it_is_dilated_or_strided():
    for stride, expected in ((16, 3 + 3), (8, 2 + 10)):
        network = backbones.build("mobilenet_v2", stride)
        assert sum(type(layer) is Depthwise for layer in network.modules()) == expected
