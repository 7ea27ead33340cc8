"""ResNet-38: the published architecture, its names, its size, and what of it stays frozen."""

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.nets import backbones, resnet38
from tests.reference import resnet38 as twin


@pytest.fixture
def thin(monkeypatch):
    """The same network with a sixteenth of the channels."""
    blocks = {b: (units, [w // 16 for w in ws]) for b, (units, ws) in resnet38.BLOCKS.items()}
    monkeypatch.setattr(resnet38, "BLOCKS", blocks)
    monkeypatch.setattr(resnet38, "CHANNELS", [c // 16 for c in resnet38.CHANNELS])


def published() -> dict[str, torch.Tensor]:
    """Tensors as a published file has them, without values."""
    with torch.device("meta"):
        backbone = backbones.build("resnet38d", 8)
    tensors = backbone.state_dict().items()
    return {backbone.names[key]: tensor for key, tensor in tensors if tensor.ndim}


@pytest.fixture
def state(thin):
    """Values that keep maps in range."""
    generator = torch.Generator().manual_seed(0)

    def filled(name: str, tensor: torch.Tensor) -> torch.Tensor:
        values = torch.empty(tensor.shape).uniform_(-1, 1, generator=generator)
        if name.endswith(("gamma", "var")):
            return 1 + values / 2
        return values * (3 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else values / 2

    return {name: filled(name, tensor) for name, tensor in published().items()}


@pytest.fixture
def recipe(state):
    """As PPC has it: from weights, first level and all batch norm frozen."""
    return backbones.build("resnet38d", 8, 1, state, ["statistics", "affine"])


@torch.inference_mode()
def test_its_maps_are_those_of_the_published_network(recipe, state):
    images = torch.randn(2, 3, 33, 47, generator=torch.Generator().manual_seed(1))
    found, expected = recipe.eval()(images), twin.maps(state, images)
    assert [m.shape[1] for m in found] == recipe.channels
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
        assert ours.min() == 0


def test_it_has_the_published_size():
    """106.4 M with the heads of PPC and FBR: classifier, two projections, pixel correlation."""
    backbone = sum(v.numel() for k, v in published().items() if not k.endswith(("_mean", "_var")))
    heads = 4096 * 21 + 2 * 4096 * 128 + 512 * 64 + 1024 * 128 + 195 * 192
    assert backbone == 105_070_912
    assert round((backbone + heads) / 1e6, 1) == 106.4


def test_its_names_are_the_published_ones():
    names = published().keys()
    assert {"conv1a_weight", "bn7_beta", "bn2a_branch2a_moving_mean"} < names
    assert {"res2b2_branch2a_weight", "res4b5_branch2b1_weight", "res6a_branch1_weight"} < names
    assert len(names) == 191
    assert resnet38.published("levels.0.bn3a_branch2a.running_var") == "bn3a_branch2a_moving_var"


def test_the_recipe_keeps_what_it_freezes(recipe):
    kept = {k: v.clone() for k, v in recipe.state_dict().items()}
    learns = {k for k, p in recipe.named_parameters() if p.requires_grad}
    first = {k for k in kept if k.startswith("levels.0.")}
    assert not any("bn" in key for key in learns)
    assert not first & learns
    assert {k for k in kept if "res" in k and k not in first and "bn" not in k} == learns
    torch.manual_seed(0)
    recipe.train()
    recipe(torch.randn(1, 3, 33, 47))[-1].square().mean().backward()
    trained = [p for p in recipe.parameters() if p.grad is not None]
    torch.optim.SGD(recipe.parameters(), 0.1, weight_decay=0.1).step()
    changed = {k for k, v in recipe.state_dict().items() if not torch.equal(v, kept[k])}
    assert changed == learns
    assert len(trained) == len(learns)


def test_channels_drop_in_training_only(recipe):
    """0.3 of those within block 6, 0.5 within block 7, before each convolution but the first."""
    images = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    dropouts = [m for m in recipe.modules() if isinstance(m, nn.Dropout2d)]
    assert [d.p for d in dropouts] == [0.3, 0.3, 0.5, 0.5]
    whole = []

    def watch(module, given, returned):
        gone = (returned == 0).all(-1).all(-1) & ~(given[0] == 0).all(-1).all(-1)
        whole.append(gone.float().mean().item())

    for dropout in dropouts:
        dropout.register_forward_hook(watch)
    with torch.inference_mode():
        torch.manual_seed(0)
        first, second = (recipe.train()(images) for _ in range(2))
        assert whole == pytest.approx([0.3, 0.3, 0.5, 0.5] * 2, abs=0.25)
        assert not torch.equal(first[-1], second[-1])
        assert torch.equal(first[-2], second[-2])
        first, second = (recipe.eval()(images) for _ in range(2))
        assert torch.equal(first[-1], second[-1])


def test_nothing_can_be_downloaded():
    with pytest.raises(Refusal, match="no weights to download: take its MXNet file"):
        backbones.build("resnet38d", 8, weights="imagenet")
