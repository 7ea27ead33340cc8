"""AMN: label-conditioned features, balanced pixel loss on seeds, maps by the seeds' background."""

import numpy as np
import pytest
import torch
from torch import nn

from fbr.cam import CAM
from fbr.cam.amn import Amn
from fbr.cam.fbr import Background
from fbr.cam.method import Seeded
from fbr.nets import backbones
from fbr.nets.inference import multi_scale
from fbr.positions import Positions
from tests.reference import amn as twin
from tests.reference import numbers

OPTIONS = {"rates": [1, 2], "deviation": 0.1, "dropout": 0.0, "smoothing": 0.4}


class Backbone(nn.Module):
    """Hands the image on, as its own map."""

    channels, positions = (7, 3), (Positions(1), Positions(1))

    def forward(self, images):
        return [torch.zeros(1), images]


def amn(classes: int = 4, backbone: nn.Module | None = None, **changes) -> Amn:
    torch.manual_seed(0)
    return Amn(backbone or Backbone(), classes, Amn.Options(**OPTIONS | changes))


def batch(size: int = 2, classes: int = 4, grid=(5, 6)) -> dict:
    torch.manual_seed(1)
    seeds = torch.randint(0, classes + 1, (size, *grid))
    seeds[torch.rand(seeds.shape) < 0.3] = 255
    return {
        "image": torch.randn(size, 3, *grid),
        "label": torch.randint(0, 2, (size, classes)).float(),
        "seeds": seeds.to(torch.uint8),
    }


def total(losses: dict) -> torch.Tensor:
    """What the training loop makes of them."""
    return sum(value / count.clamp(min=1) for value, count in losses.values())


def carrying(**changes) -> Amn:
    asked = {"scores": "softmax", "seed_background": "learned"} | changes
    method = amn()
    return method.carry(Background(method.width, 4, numbers.fbr(**asked)))


def ours(**changes) -> dict:
    return {"one_space": True, "weight": {"l_sim": 0.0}} | changes


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("shown", ["none", "some", "all"])
def test_features_and_logits_are_the_equations(classes, shown):
    network, given = amn(classes), batch(2, classes)
    label = {"none": 0 * given["label"], "all": 0 * given["label"] + 1}.get(shown, given["label"])
    features, logits = network.conditioned(given["image"], label)
    branches = [
        (b.weight.detach().numpy(), b.bias.detach().numpy(), b.dilation[0])
        for b in network.classify
    ]
    code = network.encode.weight.detach().numpy(), network.encode.bias.detach().numpy()
    for number, image in enumerate(given["image"].numpy()):
        expected = twin.conditioned(image, label[number].numpy(), *code)
        assert features[number].detach().numpy() == pytest.approx(expected, abs=1e-6)
        found = logits[number].detach().numpy()
        assert found == pytest.approx(twin.aspp(expected, branches), abs=1e-5)


def test_the_loss_is_the_equation_on_the_coarse_grid():
    network, given = amn(), batch(2, grid=(5, 6))
    network.positions = Positions(3)
    big = given["seeds"].repeat_interleave(3, 1).repeat_interleave(3, 2)
    big[:, 1::3] = 1  # off the positions
    seen = network.look(given | {"seeds": big})
    assert seen.features.shape == (2, 3, 5, 6)
    assert seen.scores.shape == (2, 5, 5, 6)
    pixels = seen.scores.permute(0, 2, 3, 1).reshape(-1, 5).tolist()
    expected = twin.balanced(pixels, given["seeds"].flatten().tolist(), 0.4)
    assert total(seen.losses).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("size", "stride"), [((64, 64), 16), ((33, 47), 8), ((5, 6), 1)])
def test_seeds_are_read_where_positions_lie(monkeypatch, size, stride):
    seen = []
    monkeypatch.setattr(
        "fbr.cam.amn.balanced_cross_entropy", lambda logits, target, _: seen.append(target) or {}
    )
    network, given = amn(), batch(1, grid=size)
    network.positions = Positions(stride)
    network.look(given | {"image": given["image"][..., ::stride, ::stride]})
    assert torch.equal(seen[0], given["seeds"][:, ::stride, ::stride])


@pytest.mark.parametrize("only", [0, 2, 255])
def test_a_batch_with_one_side_or_none_is_finite(only):
    network, given = amn(), batch()
    loss = total(network.look(given | {"seeds": torch.full_like(given["seeds"], only)}).losses)
    loss.backward()
    assert (loss.item() > 0) == (only != 255)
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_the_label_changes_what_is_seen():
    network, given = amn(), batch(1)
    other = 1 - given["label"]
    assert not torch.allclose(
        network.maps(given["image"], given["label"]), network.maps(given["image"], other)
    )


@pytest.mark.parametrize("keys", [[], [3], [1, 2, 3, 4]])
def test_finished_maps_are_the_equation(keys):
    torch.manual_seed(2)
    logits, background = 3 * torch.randn(5, 6, 7), torch.rand(6, 7) < 0.5
    found = amn().finish(logits, torch.tensor(keys, dtype=torch.long), background).numpy()
    expected = twin.finish(logits.double().numpy(), keys, background.numpy())
    assert found.shape == (len(keys), 6, 7)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_class_that_is_not_shown_takes_no_pixel_however_sure_the_network_is_of_it():
    torch.manual_seed(2)
    logits, background = 3 * torch.randn(5, 6, 7), torch.rand(6, 7) < 0.5
    logits[2] += 20
    found = amn().finish(logits, torch.tensor([1, 4]), background)
    expected = twin.finish(logits.double().numpy(), [1, 4], background.numpy())
    assert found.numpy() == pytest.approx(expected, abs=1e-5)
    assert found.shape == (2, 6, 7)
    assert (found[:, background] < 1e-4).all()  # the background's, in the seeds' and now for sure


@pytest.mark.parametrize("background", [True, False])
def test_finished_maps_stay_within_0_and_1(background):
    everywhere = torch.full((1, 1), background)
    maps = amn().finish(torch.zeros(5, 1, 1), torch.tensor([2]), everywhere)
    assert maps.item() == pytest.approx(0.2 if background else 0)


def test_a_class_that_the_image_does_not_show_is_impossible():
    network, given = carrying(**ours(maps="product")), batch(3)
    network.background.bank.push(torch.rand(50, 6), torch.ones(50, 4), torch.ones(50).bool())
    network.background.prototypes.uniform_()
    maps = network.eval().maps(given["image"], given["label"])
    assert maps.shape == (3, 4, 5, 6)
    assert (maps.flatten(2).sum(2) > 0).equal(given["label"] > 0)
    shown = given["label"][0].nonzero()[:, 0] + 1
    assert network.finish(maps[0], shown, torch.zeros(5, 6).bool()).shape == (len(shown), 5, 6)
    assert amn().maps(given["image"], given["label"]).shape == (3, 5, 5, 6)


@pytest.mark.parametrize("maps", ["chance", "product"])
def test_where_fbr_makes_the_maps_they_are_foreground_divided_by_their_most(maps):
    network, given = carrying(**ours(maps=maps)), batch(1)
    network.background.prototypes.uniform_()
    network.background.bank.push(torch.rand(50, 6), torch.ones(50, 4), torch.ones(50).bool())
    found = network.eval().maps(given["image"], torch.ones(1, 4))
    assert found.shape == (1, 4, 5, 6)
    finished = network.finish(found[0], torch.tensor([1, 4]), torch.ones(5, 6).bool())
    assert torch.allclose(finished.amax((1, 2)), torch.ones(2))


def test_a_flipped_image_has_the_flipped_map():
    network = amn(backbone=backbones.build("small", 8)).eval()
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    label = torch.tensor([[1.0, 0, 1, 0]])

    def maps(image):
        how = {"scales": [1.0, 1.5], "flip": True, "size": (40, 56), "bfloat16": False}
        found = multi_scale(
            lambda views: network.maps(views, label.expand(len(views), -1)),
            image[None],
            device=torch.device("cpu"),
            **how,
        )
        return network.finish(found[0], torch.tensor([1, 3]), torch.zeros(40, 56).bool())

    flipped = maps(np.ascontiguousarray(image[:, ::-1]))
    assert torch.allclose(maps(image).flip(2), flipped, atol=1e-5)
    assert maps(image).std() > 0.01


def test_bfloat16_is_float32_coarsely():
    network = amn(backbone=backbones.build("small", 8)).eval()
    given = batch(2, grid=(32, 40))
    exact = network.look(given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.look(given)
    assert total(rough.losses).item() == pytest.approx(total(exact.losses).item(), rel=0.02)
    apart = (rough.scores.float() - exact.scores).abs().mean() / exact.scores.abs().mean()
    assert 0 < apart < 0.05


@pytest.mark.parametrize("size", [1, 2])
def test_learns_with_a_real_backbone(size):
    network = amn(backbone=backbones.build("small", 8), dropout=0.1).train()
    total(network(batch(size, grid=(32, 40)))).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.abs().sum() > 0 for module in network.head for p in module.parameters())


def test_it_carries_fbr():
    network = carrying()
    losses = network(batch(3) | {"step": 0, "seed": 0})
    assert {"background", "foreground", "l_fb", "l_if", "l_seg", "l_sim"} <= set(losses)
    carried = sum(losses[name] for name in ("l_fb", "l_if", "l_seg", "l_sim"))
    carried.backward()
    assert network.encode.weight.grad.abs().sum() > 0, "FBR reads the conditioned features"
    assert network.classify[0].weight.grad is None, "scores are only read"


def test_dropout_is_off_in_inference():
    network, given = amn(dropout=0.5).eval(), batch()
    once, again = (network.maps(given["image"], given["label"]) for _ in range(2))
    assert torch.equal(once, again)


def test_the_head_is_what_starts_from_nothing():
    network = amn(backbone=backbones.build("small", 8))
    new = {id(p) for module in network.head for p in module.parameters()}
    rest = {id(p) for p in network.backbone.parameters()}
    assert new | rest == {id(p) for p in network.parameters()}
    assert not new & rest


def test_it_is_chosen_by_its_name_and_needs_seeds():
    assert CAM["amn"] is Amn
    assert issubclass(Amn, Seeded)
    assert not issubclass(CAM["plain"], Seeded)


@pytest.mark.parametrize(("key", "value"), [("smoothing", 0.6), ("dropout", 1.0), ("rates", [])])
def test_impossible_options_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Amn.Options(**OPTIONS | {key: value})
