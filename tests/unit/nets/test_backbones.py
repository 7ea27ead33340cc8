"""Backbones: the grids they promise, what is frozen, and what fits them."""

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.nets import backbones
from fbr.nets.backbones import FrozenStatistics, freeze_statistics

STRIDES = {
    "small": {8: [4, 8, 8], 16: [4, 8, 16]},
    "mobilenet_v2": {8: [2, 4, 8, 8, 8], 16: [2, 4, 8, 16, 16], 32: [2, 4, 8, 16, 32]},
    "resnet50": {8: [4, 4, 8, 8, 8], 16: [4, 4, 8, 16, 16], 32: [4, 4, 8, 16, 32]},
}
CASES = [(name, stride) for name, strides in STRIDES.items() for stride in strides]


@torch.inference_mode()
def maps(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    return backbone.eval()(images)


@pytest.mark.parametrize(("name", "stride"), CASES)
@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_maps_lie_on_the_grids_promised(name, stride, size):
    backbone = backbones.build(name, stride)
    found = maps(backbone, torch.zeros(1, 3, *size))
    assert [m.shape[1] for m in found] == backbone.channels
    grids = [tuple(-(-side // s) for side in size) for s in STRIDES[name][stride]]
    assert [tuple(m.shape[2:]) for m in found] == grids


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_keeps_the_maps_of_the_strided_network(name, stride):
    """Every (32 / stride)-th place of the finer map is the place of the coarse one."""
    torch.manual_seed(0)
    strided = backbones.build(name, 32)
    dilated = backbones.build(name, stride)
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 64, 96)
    step = 32 // stride
    fine, coarse = maps(dilated, images)[-1], maps(strided, images)[-1]
    # A random network's maps are small: compare with their own size.
    assert (fine[..., ::step, ::step] - coarse).abs().max() < 1e-4 * coarse.abs().max()


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_the_first_levels_can_be_frozen(name, freeze):
    backbone = backbones.build(name, 16, freeze)
    learns = [[p.requires_grad for p in level.parameters()] for level in backbone.levels]
    assert not any(any(level) for level in learns[:freeze])
    assert all(all(level) for level in learns[freeze:])


def test_frozen_statistics_stay_and_the_rest_learns():
    torch.manual_seed(0)
    network = freeze_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).train()
    assert isinstance(network[1], FrozenStatistics)
    network(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert network[1].running_mean.eq(0).all()
    assert network[1].weight.grad.abs().sum() > 0
    assert network[0].training
    assert not network[1].training


def test_pretrained_weights_are_taken_with_their_statistics():
    torch.manual_seed(0)
    source = backbones.models.mobilenet_v2(weights=None)
    state = source.state_dict()
    backbone = backbones.build("mobilenet_v2", 32, weights=state)
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(m, FrozenStatistics) for m in norms)
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(backbone.eval()(images)[-1], source.eval().features(images))


def test_a_new_head_does_not_matter_to_pretrained_weights():
    state = backbones.models.mobilenet_v2(weights=None).state_dict()
    state = {k: v for k, v in state.items() if not k.startswith("classifier")}
    assert backbones.build("mobilenet_v2", 32, weights=state)


def test_weights_of_another_network_are_refused():
    state = backbones.build("small", 8).state_dict()
    with pytest.raises(Refusal, match=r"weights fit 0 of \d+ tensors of mobilenet_v2"):
        backbones.build("mobilenet_v2", 32, weights=state)


@pytest.mark.parametrize(
    ("name", "stride", "weights", "said"),
    [
        ("resnet5", 8, None, "network: found 'resnet5', .* Did you mean 'resnet50'"),
        ("small", 32, None, "'small' has strides 8 and 16"),
        ("small", 8, "imagenet", "starts from weights: none, or cam"),
    ],
)
def test_what_cannot_be_built_is_refused(name, stride, weights, said):
    with pytest.raises(Refusal, match=said):
        backbones.build(name, stride, weights=weights)
