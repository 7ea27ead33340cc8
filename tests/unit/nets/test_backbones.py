"""Backbones: the grids they promise, what is frozen, and what fits them."""

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.nets import backbones, resnet38
from fbr.nets.backbones import FrozenStatistics, freeze_statistics

STRIDES = {
    "small": {8: [4, 8, 8], 16: [4, 8, 16]},
    "mobilenet_v2": {8: [2, 4, 8, 8, 8], 16: [2, 4, 8, 16, 16], 32: [2, 4, 8, 16, 32]},
    "resnet50": {8: [4, 4, 8, 8, 8], 16: [4, 4, 8, 16, 16], 32: [4, 4, 8, 16, 32]},
    "resnet101_caffe": {8: [4, 4, 8, 8, 8], 16: [4, 4, 8, 16, 16], 32: [4, 4, 8, 16, 32]},
    "resnet38d": {8: [2, 4, 8, 8, 8], 16: [2, 4, 8, 16, 16], 32: [2, 4, 8, 16, 32]},
}
CASES = [(name, stride) for name, strides in STRIDES.items() for stride in strides]


@torch.inference_mode()
def maps(backbone: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    return backbone.eval()(images)


@pytest.mark.parametrize(("name", "stride"), CASES)
@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_maps_lie_on_the_grids_promised(name, stride, size):
    with torch.device("meta"):
        backbone = backbones.build(name, stride)
        found = maps(backbone, torch.zeros(1, 3, *size))
    assert [m.shape[1] for m in found] == backbone.channels
    assert backbone.strides == STRIDES[name][stride]
    grids = [tuple(-(-side // s) for side in size) for s in STRIDES[name][stride]]
    assert [tuple(m.shape[2:]) for m in found] == grids


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_without_dilation_the_grids_are_the_same(name, stride):
    with torch.device("meta"):
        backbone = backbones.build(name, stride, dilate=False)
        found = maps(backbone, torch.zeros(1, 3, 33, 47))
    assert [tuple(m.shape[2:]) for m in found] == [
        tuple(-(-side // s) for side in (33, 47)) for s in STRIDES[name][stride]
    ]
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert {conv.dilation for conv in convolutions} == {(1, 1)}


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "resnet101_caffe", "resnet38d"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_keeps_the_maps_of_the_strided_network(name, stride, monkeypatch):
    """Every (32 / stride)-th place of the finer map is the place of the coarse one."""
    torch.manual_seed(0)
    if name == "resnet38d":  # slim, to be quick
        blocks = {b: (n, [w // 16 for w in ws]) for b, (n, ws) in resnet38.BLOCKS.items()}
        monkeypatch.setattr(resnet38, "BLOCKS", blocks)
    strided = backbones.build(name, 32)
    dilated = backbones.build(name, stride)
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 32, 64)
    step = 32 // stride
    fine, coarse = maps(dilated, images)[-1], maps(strided, images)[-1]
    # A random network's maps are small: compare with their own size.
    assert (fine[..., ::step, ::step] - coarse).abs().max() < 1e-4 * coarse.abs().max()


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("freeze", [0, 1, 3])
def test_the_first_levels_can_be_frozen(name, freeze):
    with torch.device("meta"):
        backbone = backbones.build(name, 16, freeze)
    learns = [[p.requires_grad for p in level.parameters()] for level in backbone.levels]
    assert not any(any(level) for level in learns[:freeze])
    assert all(all(level) for level in learns[freeze:])


KEPT = [(None, False), ([], False), (["statistics"], False), (["affine"], False)]
KEPT += [(["statistics", "affine"], False), (None, True), ([], True)]


@pytest.mark.parametrize(("keep", "pretrained"), KEPT)
def test_batch_norm_keeps_what_it_is_told_to(keep, pretrained):
    torch.manual_seed(0)
    state = backbones.models.mobilenet_v2(weights=None).state_dict() if pretrained else None
    backbone = backbones.build("mobilenet_v2", 8, 1, state, keep)
    norms = {k: m for k, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.train()
    maps = backbone(torch.randn(2, 3, 33, 47))
    sum(m.square().mean() for m in maps).backward()
    torch.optim.SGD(backbone.parameters(), 0.1, weight_decay=0.1).step()
    moved = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    kept = (["statistics"] if pretrained else []) if keep is None else keep
    for key in norms:
        frozen = key.startswith("levels.0.")
        assert (f"{key}.running_mean" in moved) == (not frozen and "statistics" not in kept), key
        assert (f"{key}.weight" in moved) == (not frozen and "affine" not in kept), key
    assert "levels.1.2.conv.0.0.weight" in moved
    assert not any(key.startswith("levels.0.") for key in moved)


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


def test_weights_are_reported_in_a_line(caplog):
    state = backbones.models.mobilenet_v2(weights=None).state_dict()
    del state["features.0.1.bias"]
    with caplog.at_level("INFO", "fbr"):
        backbones.build("mobilenet_v2", 32, weights=state)
    assert caplog.messages == [
        "mobilenet_v2: 259 of 260 tensors matched, 1 missing (features.0.1.bias), "
        "2 unexpected (classifier.1.bias, classifier.1.weight)"
    ]


def test_weights_of_another_network_are_refused_unless_told_otherwise():
    state = backbones.build("small", 8).state_dict()
    said = r"weights: 0 of 260 tensors matched, 260 missing \(features.0.0.weight, .*, …\)"
    with pytest.raises(Refusal, match=f"{said}.*; expected at least 90%: name the network"):
        backbones.build("mobilenet_v2", 32, weights=state)
    assert backbones.build("mobilenet_v2", 32, weights=state, least_matched=0.0)


def test_half_of_the_weights_are_enough_if_half_are_asked_for():
    state = backbones.models.mobilenet_v2(weights=None).state_dict()
    half = {k: v for k, v in state.items() if int(k.split(".")[1]) < 12}
    with pytest.raises(Refusal, match="expected at least 90%"):
        backbones.build("mobilenet_v2", 32, weights=half)
    backbone = backbones.build("mobilenet_v2", 32, weights=half, least_matched=0.5)
    assert torch.equal(backbone.levels[0][0][0].weight, state["features.0.0.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "resnet101"])
def test_imagenet_means_the_weights_that_the_recipes_began_from(name, monkeypatch):
    constructor, asked = getattr(backbones.models, name), []

    def offline(weights=None, **options):
        asked.append(weights)
        return constructor(weights=None, **options)

    offline.__name__ = name
    monkeypatch.setattr(backbones.models, name, offline)
    builder = getattr(backbones, name, None) or backbones._resnet(offline)
    with torch.device("meta"):
        builder(16, True)
    assert asked == ["IMAGENET1K_V1"]


@pytest.mark.parametrize(
    ("name", "stride", "weights", "said"),
    [
        ("resnet5", 8, None, "network: found 'resnet5', .* Did you mean 'resnet50'"),
        ("small", 32, None, "'small' has strides 8 and 16"),
        ("small", 8, "imagenet", "starts from weights: none, or cam"),
        ("mobilenet_v2", 4, None, "'mobilenet_v2' has strides 8, 16 and 32, found stride 4"),
        ("resnet50", 14, None, "'resnet50' has strides 8, 16 and 32, found stride 14"),
        ("resnet101_caffe", 8, "imagenet", "'resnet101_caffe' has no weights to download"),
        ("resnet38d", 4, None, "'resnet38d' has strides 8, 16 and 32, found stride 4"),
    ],
)
def test_what_cannot_be_built_is_refused(name, stride, weights, said):
    with pytest.raises(Refusal, match=said):
        backbones.build(name, stride, weights=weights)


def test_more_levels_than_there_are_cannot_be_frozen():
    with pytest.raises(Refusal, match="freeze: found 4, expected at most 3 levels"):
        backbones.build("small", 8, 4)


def test_a_norm_with_more_in_it_keeps_that():
    """timm's norms have their activation inside."""

    class Rectified(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = nn.Sequential(Rectified(3), nn.BatchNorm2d(3))
    freeze_statistics(freeze_statistics(network)).train()
    assert all(isinstance(m, FrozenStatistics) for m in network)
    network(images := torch.randn(2, 3, 5, 5))
    assert network[0](images).min() == 0
    assert all(m.running_mean.eq(0).all() for m in network)
    assert set(network.state_dict()) == set(nn.Sequential(Rectified(3), Rectified(3)).state_dict())


def test_gradients_lie_as_maps_do():
    """A mean hands back one number for all positions, in a layout that slows batch norm down."""
    network = backbones.build("small", 8).to(memory_format=torch.channels_last)
    seen = []
    network.levels[-1].register_full_backward_hook(lambda *given: seen.append(given[2][0]))
    network(torch.randn(2, 3, 32, 32))[-1].mean((2, 3)).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_frozen_levels_see_some_images_after_others_and_find_the_same(name, count):
    torch.manual_seed(0)
    backbone = backbones.build(name, 16, freeze=2).to(memory_format=torch.channels_last).train()
    seen = []
    backbone.levels[0].register_forward_hook(lambda _, given, found: seen.append(len(found)))
    learns = []
    backbone.levels[2].register_forward_hook(lambda _, given, found: learns.append(len(found)))
    images = torch.randn(count, 3, 33, 47)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(images)
        first = backbone.levels[0](images)
        second = backbone.levels[1](first)
    assert seen[:-1] == {1: [1], 4: [4], 7: [4, 3]}[count]
    assert learns == [count]
    assert torch.equal(found[0], first)
    assert torch.equal(found[1], second)
    assert not found[1].requires_grad
    assert found[-1].requires_grad


def test_levels_that_mix_images_or_learn_see_all_of_them_at_once():
    backbone = backbones.build("mobilenet_v2", 16).train()
    seen = []
    backbone.levels[0].register_forward_hook(lambda _, given, found: seen.append(len(found)))
    images = torch.randn(6, 3, 33, 33)
    backbone(images)  # learns
    with torch.no_grad():
        backbone(images)  # batch statistics
        backbone.eval()(images)
    backbone.requires_grad_(False)(images)
    backbone(images.requires_grad_())  # whoever asks how the maps depend on the pixels
    assert seen == [6, 6, 4, 2, 4, 2, 6]
