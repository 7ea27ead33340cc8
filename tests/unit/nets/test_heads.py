"""Segmentation heads: their grids, and the sum of branches."""

import pytest
import torch
from torch.nn import functional as F

from fbr.errors import Refusal
from fbr.nets import backbones
from fbr.nets.heads import HEADS, DeepLabV2, DeepLabV3Plus, FullSize, Segmenter

CHANNELS = [8, 16, 24]


def maps(batch: int = 2, height: int = 5, width: int = 7) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width)]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("rates", [[1], [1, 2, 4], [6, 12, 18, 24]])
def test_deeplab_v2_is_the_sum_of_its_convolutions(rates):
    head = DeepLabV2(CHANNELS, 4, rates)
    last = maps()[-1]
    expected = sum(
        F.conv2d(last, branch.weight, branch.bias, dilation=rate, padding=rate)
        for branch, rate in zip(head.branches, rates, strict=True)
    )
    assert torch.allclose(head(maps()), expected, atol=1e-6)
    assert head(maps()).shape == (2, 4, 5, 7)


def test_deeplab_v2_starts_near_zero():
    logits = DeepLabV2(CHANNELS, 4, [1, 2])(maps())
    assert logits.abs().max() < 1


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 5, 7), (2, 1, 1)])
def test_deeplab_v3_plus_lies_on_the_fine_grid(mode, size):
    batch, height, width = size
    head = DeepLabV3Plus(CHANNELS, 4, [2, 4]).train(mode)
    logits = head(maps(*size))
    assert logits.shape == (batch, 4, 4 * height, 4 * width)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize(("name", "stride"), [("small", 8), ("mobilenet_v2", 16), ("resnet50", 16)])
@pytest.mark.parametrize(("head", "grid"), [("deeplabv2", None), ("deeplabv3plus", 4)])
def test_segmenters_give_scores_on_the_heads_grid(name, stride, head, grid):
    network = Segmenter(backbones.build(name, stride), head, 3, [1, 2]).eval()
    with torch.inference_mode():
        images = torch.zeros(1, 3, 64, 48)
        scores, full = network(images), FullSize(network)(images)
    assert scores.shape == (1, 3, 64 // (grid or stride), 48 // (grid or stride))
    assert full.shape == (1, 3, 64, 48)


def test_full_size_scores_are_the_resized_ones():
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1]).eval()
    images = torch.randn(1, 3, 41, 56)
    with torch.inference_mode():
        expected = F.interpolate(network(images), (41, 56), mode="bilinear", align_corners=False)
        assert torch.equal(FullSize(network)(images), expected)


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(Refusal, match=r"head: found 'deeplabv3pls', .* 'deeplabv3plus'"):
        Segmenter(backbones.build("small", 8), "deeplabv3pls", 3, [1])


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_built_alike(name):
    assert HEADS[name](CHANNELS, 5, [1, 3])(maps()).shape[:2] == (2, 5)
