"""The plain CAM: its score is the mean of its map."""

import math

import pytest
import torch
from torch import nn

from fbr.cam import CAM
from fbr.cam.plain import Plain, threshold_pool
from fbr.nets import backbones
from fbr.positions import Positions
from tests.reference import fbr as twin


class Backbone(nn.Module):
    """Hands the image on, as its own map."""

    channels, positions = (7, 3), (Positions(1), Positions(1))

    def forward(self, images):
        return [torch.zeros(1), images]


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return Plain(Backbone(), 4, Plain.Options())


def batch(size: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "image": torch.randn(size, 3, 5, 6),
        "label": torch.randint(0, 2, (size, 4)).float(),
    }


def test_loss_is_the_equation(plain):
    given = batch()
    total = 0.0
    for image, label in zip(given["image"], given["label"], strict=True):
        for k in range(4):
            score = 0.0
            for c in range(3):
                score += plain.classify.weight[k, c, 0, 0].item() * image[c].mean().item()
            likely = 1 / (1 + math.exp(-score))
            total -= math.log(likely if label[k] else 1 - likely) / 8
    losses = plain(given)
    assert list(losses) == ["classification"]
    assert losses["classification"].item() == pytest.approx(total, rel=1e-5)


def test_maps_pool_to_the_scores_the_loss_sees(plain, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "fbr.cam.plain.multilabel_soft_margin", lambda logits, label: seen.append(logits)
    )
    given = batch()
    plain(given)
    raw = plain.classify(given["image"])
    assert torch.allclose(raw.mean((2, 3)), seen[0], atol=1e-6)
    assert torch.equal(plain.maps(given["image"]), raw.relu())


def test_maps_have_a_channel_a_class_and_are_not_negative(plain):
    maps = plain.maps(torch.randn(3, 3, 5, 6))
    assert maps.shape == (3, 4, 5, 6)
    assert maps.min() == 0


@pytest.mark.parametrize("size", [1, 2])
def test_learns_with_a_real_backbone(size):
    method = CAM["plain"]
    network = method(backbones.build("small", 8), 4, method.Options()).train()
    given = batch(size) | {"image": torch.randn(size, 3, 32, 40)}
    network(given)["classification"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert network.maps(given["image"]).shape == (size, 4, 4, 5)


def test_the_head_is_what_starts_from_nothing(plain):
    assert [p for module in plain.head for p in module.parameters()] == [plain.classify.weight]


def test_it_has_no_other_options():
    with pytest.raises(ValueError, match="Extra inputs"):
        Plain.Options(size=3)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_threshold_pooling_and_its_gradient_are_the_equation(threshold, size):
    features = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).relu()
    features[1, 2] = 0
    leaf, exact = features.clone().requires_grad_(), features.double().flatten(2).requires_grad_()
    found, expected = threshold_pool(leaf, threshold), twin.threshold_pool(exact, threshold)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    weights = torch.arange(1.0, 7).view(2, 3)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.flatten(2).double(), exact.grad, atol=1e-6, rtol=1e-6)
    assert not found[1, 2]


def test_pooling_over_a_threshold_in_bfloat16_is_the_equation_of_what_it_is_given():
    torch.manual_seed(3)
    features = (50 * torch.rand(3, 5, 33, 31).square()).bfloat16()  # counts that it cannot hold
    leaf, exact = features.clone().requires_grad_(), features.double().flatten(2).requires_grad_()
    found, expected = threshold_pool(leaf, 0.1), twin.threshold_pool(exact, 0.1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=0.02)
    found.sum().backward()
    expected.sum().backward()
    apart = (leaf.grad.flatten(2).double() - exact.grad).norm() / exact.grad.norm()
    assert apart < 0.05


def test_the_option_changes_what_is_pooled(plain):
    given = batch()
    given["image"] = given["image"].relu()
    pooled = Plain(Backbone(), 4, Plain.Options(tap=0.1))
    pooled.load_state_dict(plain.state_dict())
    logits = pooled.classify(threshold_pool(given["image"], 0.1)[:, :, None, None]).flatten(1)
    assert torch.equal(pooled.pooled(given["image"]), logits)
    assert not torch.allclose(plain(given)["classification"], pooled(given)["classification"])
