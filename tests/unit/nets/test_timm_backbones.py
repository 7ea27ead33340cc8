"""timm's networks as backbones: grids, strides, freezing, weights, names."""

import builtins

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.nets import backbones, timm_backbones
from fbr.nets.backbones import FrozenStatistics
from fbr.nets.inputs import MEAN, STD
from tests.unit.test_positions import middle

timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'fbr[timm]'")

# Name → stride asked for, strides of the maps. The smallest of each family.
CASES = [
    ("resnest14d", 16, [2, 4, 8, 16, 16]),
    ("resnest14d", 8, [2, 4, 8, 8, 8]),
    ("convnext_atto", 8, [4, 8, 8, 8]),
    ("convnext_atto", 32, [4, 8, 16, 32]),
    ("hrnet_w18_small", 4, [2, 4]),
    ("mobilenetv3_small_050", 16, [2, 4, 8, 16, 16]),
    ("mobilenetv3_small_050", 32, [2, 4, 8, 16, 32]),
    ("deit_tiny_patch16_224", 16, [16] * 4),
    ("eva02_tiny_patch14_224", 14, [14] * 4),
    ("vit_small_patch14_dinov2.lvd142m", 14, [14] * 4),
    ("vit_base_patch16_clip_224.openai", 16, [16] * 4),
]


def small(name: str) -> dict:
    """A transformer of a quarter of its blocks: what matters here does not lie in their number."""
    return {"depth": 4} if "patch" in name else {}


@pytest.fixture
def build(monkeypatch):
    created = timm.create_model

    def shallow(name, pretrained, **options):
        return created(name, pretrained=pretrained, **options, **small(name))

    monkeypatch.setattr(timm, "create_model", shallow)

    def build(name, *rest, **options):
        torch.manual_seed(0)
        return backbones.build(f"timm/{name}", *rest, **options)

    return build


@pytest.mark.parametrize(("name", "stride", "strides"), CASES)
def test_maps_lie_on_the_grids_promised_and_everything_learns(build, name, stride, strides):
    backbone = build(name, stride)
    assert backbone.training
    assert backbone.strides == strides
    backbone.eval()
    for size in [(32, 64), (45, 33)]:
        found = backbone(torch.zeros(1, 3, *size))
        assert [m.shape[1] for m in found] == backbone.channels
        grids = [tuple(-(-side // s) for side in size) for s in strides]
        assert [tuple(m.shape[2:]) for m in found] == grids
    found[-1].square().sum().backward()
    reached = [p.grad is not None for p in backbone.parameters()]
    assert all(reached)


@pytest.mark.parametrize(
    ("name", "stride", "first"),
    [
        ("resnest14d", 16, 0),
        ("hrnet_w18_small", 4, 0),
        ("mobilenetv3_small_050", 32, 0),
        ("convnext_atto", 32, 15.5),
        ("deit_tiny_patch16_224", 16, 7.5),
    ],
)
def test_patches_have_their_positions_in_their_middles(build, name, stride, first):
    assert build(name, stride).positions[-1].first == first


@pytest.mark.parametrize(
    ("name", "stride"),
    [  # Shortcuts of ResNeSt average over cells, its branches do not: it looks between the two.
        ("mobilenetv3_small_050", 16),
        ("mobilenetv3_small_050", 32),
        ("convnext_atto", 32),
        ("tf_mobilenetv3_small_075", 32),
        ("tf_efficientnet_lite0", 32),
    ],
)
def test_backbones_look_where_their_positions_lie(build, name, stride):
    backbone = build(name, stride)
    for level, positions in enumerate(backbone.positions):
        number = round((128 - positions.first) / positions.stride)
        place = positions.first + number * positions.stride
        assert middle(backbone, level, number) == pytest.approx(place, abs=0.3 * positions.stride)


@pytest.mark.parametrize("name", ["resnest14d", "deit_tiny_patch16_224"])
def test_the_first_levels_can_be_frozen(build, name):
    backbone = build(name, 16, 2)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    if norms:
        frozen = [isinstance(m, FrozenStatistics) for m in norms]
        assert any(frozen)
        assert not all(frozen)
    images = torch.randn(2, 3, 40, 64)
    first = [m.detach() for m in backbone(images)]
    backbone(images)[-1].square().mean().backward()
    torch.optim.SGD(backbone.parameters(), 0.1, weight_decay=0.1).step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    third = "layer2." if norms else "blocks.2."
    assert all(third <= k.removeprefix("net.") for k in changed)
    if norms:
        again = backbone(images)
        assert all(map(torch.equal, first[:2], again[:2]))
        assert not torch.equal(first[2], again[2])


def test_frozen_norms_keep_their_activation(build):
    backbone = build("mobilenetv3_small_050", 32, keep_norm=["statistics", "affine"])
    live = build("mobilenetv3_small_050", 32).eval()
    live.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 40, 40)
    assert torch.equal(backbone.train()(images)[-1], live(images)[-1])
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for m in norms for p in m.parameters())


def test_a_transformer_shows_a_map_behind_each_quarter_of_its_blocks():
    assert timm_backbones._levels([16] * 12) == [2, 5, 8, 11]
    assert timm_backbones._levels([14] * 24) == [5, 11, 17, 23]
    assert timm_backbones._levels([4, 8, 16, 32]) == [0, 1, 2, 3]


@torch.inference_mode()
def test_hrnets_branches_become_one_map(build):
    backbone = build("hrnet_w18_small", 4).eval()
    images = torch.randn(1, 3, 64, 64)
    branches = backbone.net.forward_intermediates(images, intermediates_only=True)[1:]
    last = backbone(images)[-1]
    assert last.shape == (1, sum(b.shape[1] for b in branches), 16, 16)
    assert torch.equal(last[:, :16], branches[0])
    parts = last.split([branch.shape[1] for branch in branches], 1)
    for level, (branch, part) in enumerate(zip(branches, parts, strict=True)):
        step = 2**level  # every so many positions of the finest lies on one of these
        torch.testing.assert_close(part[..., ::step, ::step], branch)


@torch.inference_mode()
def test_images_come_as_the_network_knows_them(build):
    """CLIP's weights know other statistics than ImageNet's."""
    backbone = build("vit_base_patch16_clip_224", 16).eval()
    mean, std = (torch.tensor(backbone.net.pretrained_cfg[k]) for k in ("mean", "std"))
    assert mean.tolist() != MEAN
    photograph = torch.rand(1, 32, 32, 3)
    ours = (photograph - torch.tensor(MEAN)) / torch.tensor(STD)
    theirs = (photograph - mean) / std
    expected = backbone.net.forward_intermediates(
        theirs.permute(0, 3, 1, 2), norm=True, intermediates_only=True
    )
    assert torch.allclose(backbone(ours.permute(0, 3, 1, 2))[-1], expected[-1], atol=1e-4)


def test_weights_of_a_file_bear_timms_names(build, caplog):
    state = timm.create_model("resnest14d", False).state_dict()
    state = {k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}
    with caplog.at_level("INFO", "fbr"):
        backbone = build("resnest14d", 16, weights=state)
    assert "tensors matched, 2 unexpected (fc.bias, fc.weight)" in caplog.messages[0]
    assert torch.equal(backbone.net.conv1[0].weight, state["conv1.0.weight"])
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(isinstance(m, FrozenStatistics) for m in norms)
    with pytest.raises(Refusal, match="weights: 0 of"):
        build("convnext_atto", 16, weights=state)


def test_nothing_is_downloaded_unless_asked_for(build, monkeypatch):
    def download(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    assert build("resnest14d.gluon_in1k", 16)
    with pytest.raises(OSError, match="no route to host"):
        build("resnest14d.gluon_in1k", 16, weights="imagenet")


def test_a_network_without_weights_says_so(build):
    bare = "convnext_atto_rms"
    with pytest.raises(OSError, match=f"No pretrained weights exist for {bare}"):
        build(bare, 16, weights="imagenet")


@pytest.mark.parametrize(
    ("name", "stride", "said"),
    [
        ("resnest5d", 8, r"'timm/resnest5d', which timm \S+ does not have. Did you mean 'resnest"),
        ("resnest14d.in1k", 8, r"weights of resnest14d: resnest14d.gluon_in1k. Did you mean"),
        ("hrnet_w18_small", 8, "gives maps at stride 4, found stride 8"),
        ("deit_tiny_patch16_224", 8, "gives maps at stride 16, found stride 8"),
        ("ghostnet_100", 16, "gives maps at stride 32, found stride 16"),
        ("beit_base_patch16_224", 16, "cannot be a backbone: Input height .* match model"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(build, name, stride, said):
    with pytest.raises(Refusal, match=said) as refused:
        build(name, stride)
    assert "\n" not in str(refused.value)


def test_without_timm_it_is_said_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest, **options):
        if name == "timm":
            raise ImportError(name)
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        Refusal, match=r"'timm/resnest14d' needs timm, .* pip install 'fbr\[timm\]'"
    ):
        backbones.build("timm/resnest14d", 16)
