"""PPC: its contrasts from what two views see, on SEAM and on EPS, alone and with FBR's banks."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fbr.cam import ppc
from fbr.cam.fbr import Background, Draws
from fbr.cam.ppc import Ppc, prototypes
from fbr.cam.seam import View
from fbr.errors import Refusal
from fbr.losses.saliency import explicit_pseudo_pixels
from fbr.positions import Onto, Positions
from tests.reference import numbers, positions
from tests.reference import ppc as twin
from tests.unit.cam.stand_in import Backbone, batch

CLASSES, TAU = 3, 0.1
NOTHING = dict.fromkeys(("l_fb", "l_if", "l_seg", "l_sim"), 0.0)
NAMES = ("cross_prototype", "cross_cam", "intra_view")


def made(**options) -> Ppc:
    torch.manual_seed(0)
    return Ppc(Backbone(), CLASSES, Ppc.Options.model_validate(numbers.ppc(**options)))


def same(side):
    """Both views of one size."""
    return Onto((side, side), (side, side), Positions(1))


def view_of(features, refined) -> View:
    return View(tuple(features.shape[2:]), features, refined, refined)


def views(seed=0, side=3):
    """Features and refined maps of two views, with sharp and with empty maps among them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        features = torch.randn(2, 8, side, side, generator=generator).relu()
        refined = torch.rand(2, 1 + CLASSES, side, side, generator=generator)
        refined[1, 1] = 0
        found.append((features, refined))
    return found


def by_hand(network, pair, given):
    """The three losses in double precision, and the features that they come from."""
    n, labels = network.numbers, given["label"].double()
    leaves = [features.double().flatten(2).mT.requires_grad_() for features, _ in pair]
    weight = network.project.weight.detach().double().flatten(1)
    pixels = [(leaf @ weight.mT).clamp(min=0) for leaf in leaves]
    read = [twin.seeds(r.double().flatten(2)[:, 1:], labels, n.seed_background) for _, r in pair]
    top = pixels[0].shape[1] // n.prototype_part
    if n.mode == "released":
        centres = [
            twin.released_prototypes(
                r.double().flatten(2)[:, 1:], z.detach(), top, n.seed_background
            )
            for (_, r), z in zip(pair, pixels, strict=True)
        ]
    else:
        centres = [
            twin.prototypes(shares, z.detach(), top)
            for (shares, _), z in zip(read, pixels, strict=True)
        ]
    seeds = [found.flatten().tolist() for _, found in read]
    flat = [z.flatten(0, 1) for z in pixels]

    def cross(view, prototypes_of, labels_of):
        losses = [
            twin.contrast(z, c, centres[prototypes_of], TAU) * (c > 0 or not n.foreground_only)
            for z, c in zip(flat[view], seeds[labels_of], strict=True)
        ]
        return sum(losses) / len(losses)

    draws = Draws(given["seed"], given["step"], torch.device("cpu"))

    def within(view):
        cosines = [
            0.0 if centres[view][c] is None else float(twin.cosine(z.detach(), centres[view][c]))
            for z, c in zip(flat[view], seeds[view], strict=True)
        ]
        uniform = draws.uniform(len(cosines)).tolist()
        times = twin.hard_pixels(cosines, seeds[view], n.hard, n.kept, uniform)
        losses = [
            twin.contrast(
                *(z, c, centres[view], TAU),
                twin.semi_hard(z, c, centres[view], n.hard, n.kept),
            )
            for z, c in zip(flat[view], seeds[view], strict=True)
        ]
        return twin.over_classes(losses, times, seeds[view])

    expected = {
        "cross_prototype": 0.1 * (cross(0, 1, 0) + cross(1, 0, 1)) / 2,
        "cross_cam": 0.2 * (cross(0, 0, 1) + cross(1, 1, 0)) / 2,
        "intra_view": 0.3 * (within(0) + within(1)) / 2,
    }
    return expected, leaves


@pytest.mark.parametrize("foreground_only", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts_and_gradients_are_the_equations(foreground_only, seed):
    network, given = made(foreground_only=foreground_only), batch(2, CLASSES, seed=seed)
    given["label"] = torch.tensor([[1.0, 1, 0], [1, 0, 1]])
    check(network, given, views(seed))


@pytest.mark.parametrize("labels", [[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
def test_as_released_every_class_has_a_prototype(labels):
    """Of one image and all its positions: which of equal scores come first is anyone's guess."""
    network, given = made(mode="released", prototype_part=1), batch(1, CLASSES)
    given["label"] = torch.tensor([labels])
    check(network, given, [(f[:1], r[:1]) for f, r in views()])


def test_as_released_the_background_is_the_mean_of_some_pixels():
    network, given = made(mode="released", prototype_part=4), batch(2, CLASSES)
    (features, refined), _ = views()
    refined[:, 2] = 0  # scores nowhere, and has a prototype all the same
    pixels = network._projected(features).flatten(2).mT
    side = network._side(pixels, refined, given["label"])
    assert side.known.all()
    pairs = itertools.combinations(pixels.detach().flatten(0, 1), 2)  # two are a fourth of nine
    means = F.normalize(torch.stack([(one + other) / 2 for one, other in pairs]), dim=1)
    for prototype in side.prototypes[[0, 2]]:
        assert (prototype - means).abs().amax(1).min() < 1e-6


def check(network, given, pair):
    """Losses and gradients of a network are those by hand."""
    pair = [(features.requires_grad_(), refined) for features, refined in pair]
    found = network._contrasts([view_of(*view) for view in pair], same(3), given)
    expected, exact = by_hand(network, [(f.detach(), r) for f, r in pair], given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
        assert value > 0
        gradients = torch.autograd.grad(value, exact, retain_graph=True)
        mine = torch.autograd.grad(found[name], [f for f, _ in pair], retain_graph=True)
        for one, other in zip(mine, gradients, strict=True):
            torch.testing.assert_close(
                one.flatten(2).mT.double(), other, atol=1e-6, rtol=1e-3, msg=name
            )
            assert one.any()


@pytest.mark.parametrize("top", [1, 3, 9])
def test_prototypes_are_weighted_means_of_the_best(top):
    torch.manual_seed(0)
    shares, pixels = torch.rand(2, CLASSES, 9), torch.randn(2, 9, 5)
    shares[:, 1] = 0
    ground = 1 - shares.amax(1, keepdim=True)
    found, known = prototypes(torch.cat([ground, shares], 1), pixels, top)
    expected = twin.prototypes(shares.double(), pixels.double(), top)
    assert known.tolist() == [True, True, False, True]
    for centre, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            centre.double(), torch.zeros(5).double() if other is None else other
        )


def test_four_by_four_by_hand():
    """A cat in the first row of both views: pixels are at their prototypes, far from the other."""
    network = made(projection=2)
    network.project.weight.data = torch.eye(2, 8)[:, :, None, None]
    features, refined = torch.zeros(1, 8, 4, 4), torch.zeros(1, 1 + CLASSES, 4, 4)
    features[0, 0, 0], features[0, 1, 1:] = 2, 3
    refined[0, 1, 0] = 0.8
    given = batch(1, CLASSES) | {"label": torch.tensor([[1.0, 0, 0]])}
    found = network._contrasts([view_of(features, refined)] * 2, same(4), given)
    near = torch.log(1 + torch.exp(torch.tensor(-1 / TAU))).item()
    for name, weight in zip(NAMES, (0.1, 0.2, 0.3), strict=True):
        assert found[name].item() == pytest.approx(weight * near, rel=0.02), name
    # Where the other view has its cat in the last row, both are wrong in two rows of four.
    pair = [view_of(features, refined), view_of(features.flip(2), refined.flip(2))]
    found = network._contrasts(pair, same(4), given)
    assert found["cross_cam"].item() == pytest.approx(0.2 * 0.5 / TAU, rel=1e-3)
    assert found["cross_prototype"].item() == pytest.approx(0.1 * near, rel=0.02)


def test_views_of_one_size_are_consistent():
    """Nothing then tells the views apart: both crossed terms are the same number."""
    network, given = made(view=32), batch(2, CLASSES)
    seen = network.look(given)
    for one, other in zip((seen.features, seen.scores, seen.maps), seen.more[0], strict=True):
        assert torch.equal(one, other)
    losses = seen.losses
    assert losses["equivariance"] == 0
    assert losses["cross_prototype"].item() * 2 == pytest.approx(losses["cross_cam"].item())


def test_fbr_is_shown_both_views_and_the_small_grid():
    seen = made().look(batch(2, CLASSES))
    assert seen.features.shape == (2, 8, 8, 8)
    assert seen.scores.shape == (2, 1 + CLASSES, 8, 8)
    assert seen.maps.shape == (2, CLASSES, 8, 8)
    assert seen.more[0][0].shape == (2, 8, 4, 4)
    assert seen.onto(seen.scores).shape[2:] == (4, 4)


def test_the_large_view_is_projected_first_and_made_small_then():
    network, given = made(), batch(2, CLASSES)
    (whole, small), expected = network.pair(given["image"]), []

    def projected(view):
        weight = network.project.weight.flatten(1)
        return torch.einsum("dl,blhw->bdhw", weight, view.features).relu()

    for view in (whole, small):
        z, refined = (
            positions.onto(part, (32, 32), (16, 16), (4, 0)).float() if view is whole else part
            for part in (projected(view), view.refined)
        )
        expected.append(network._side(z.flatten(2).mT, refined, given["label"]))
    seen = []
    network._within = lambda side, draws: seen.append(side) or side.pixels.sum()
    network(given)
    for side, other in zip(seen, expected, strict=True):
        for one, two in zip(side, other, strict=True):
            torch.testing.assert_close(one, two)


def test_without_intra_view_nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(ppc, "semi_hard_entropy", None)
    losses = made(weight=dict.fromkeys(NAMES, 0.1) | {"intra_view": 0.0})(batch(2, CLASSES))
    assert "intra_view" not in losses


def test_foreground_only_keeps_the_mean_over_every_pixel():
    pair, given = views(), batch(2, CLASSES)
    given["label"] = torch.zeros(2, CLASSES)
    pair = [view_of(*view) for view in pair]
    found = made(foreground_only=True)._contrasts(pair, same(3), given)
    assert found["cross_prototype"] == found["cross_cam"] == 0
    assert found["cross_cam"].requires_grad


@pytest.mark.parametrize("mode", ["intent", "released"])
def test_on_eps_saliency_teaches_maps_and_refined_maps_of_both_views(mode):
    network, given = made(salience=numbers.SALIENCE, mode=mode), batch(2, CLASSES)
    assert network.saliency
    assert not made().saliency
    whole, small = network.pair(given["image"])
    assert whole.maps.shape[1] == 1 + CLASSES
    shrunk = F.interpolate(given["saliency"][:, None].float(), (16, 16), mode="bilinear")[:, 0]
    near = (given["saliency"][:, ::4, ::4] / 255, shrunk[:, ::4, ::4] / 255)
    expected = sum(
        explicit_pseudo_pixels(chance, saliency, given["label"], 0.4, 0.5).item()
        for view, saliency in zip((whole, small), near, strict=True)
        for chance in (
            view.maps.softmax(1),
            view.refined if mode == "intent" else view.refined.softmax(1),
        )
    )
    assert network(given)["saliency"].item() == pytest.approx(expected / 2, rel=1e-5)


def test_saliency_draws_the_refined_map_of_a_salient_class_up():
    """A nearly perfect one of six classes; of a softmax of it no class holds a half."""
    refined = torch.full((1, 7, 4, 4), 0.1 / 6)
    refined[0, 0, 2:] = refined[0, 1, :2] = 0.9
    salient = torch.zeros(1, 4, 4)
    salient[0, :2] = 1
    label = torch.tensor([[1.0, 0, 0, 0, 0, 0]])
    for released, sign in ((False, -1), (True, 1)):
        leaf = refined.clone().requires_grad_()
        chance = leaf.softmax(1) if released else leaf
        explicit_pseudo_pixels(chance, salient, label, 0.4, 0.5).backward()
        assert (sign * leaf.grad[0, 1, :2] > 0).all()


def test_maps_are_refined_ones_on_seam_and_a_softmax_on_eps():
    images = batch(2, CLASSES)["image"]
    for network in (made(), made(salience=numbers.SALIENCE)):
        view, maps = network.see(images), network.maps(images)
        best = maps[0].amax((1, 2)).argmax()
        keys, own = 1 + best[None], maps[0, best]
        least, most = own.amin(), own.amax()
        if network.saliency:
            torch.testing.assert_close(maps, view.maps.softmax(1)[:, 1:])
            expected = own / most
        else:
            assert torch.equal(maps, view.refined[:, 1:])
            expected = (own - least) / (most - least)
        torch.testing.assert_close(network.finish(maps[0], keys)[0], expected, atol=1e-3, rtol=0)


# With FBR


def carried(each: bool, **options) -> Ppc:
    network = made(**options)
    background = Background(network.width, CLASSES, numbers.fbr(bank_each_view=each))
    background.dropout = torch.nn.Identity()
    return network.carry(background)


@pytest.mark.parametrize("each", [False, True])
def test_each_view_has_a_bank_or_both_share_one(each):
    network, given = carried(each), batch(2, CLASSES)
    pushed = []
    for step in range(2):
        network(given | {"step": step})
        banks = [network.background.bank, *network.banks]
        pushed.append([int(bank.pushed) for bank in banks])
    rows = [bank.rows[: int(bank.pushed)] for bank in banks]
    if each:
        assert pushed[1] == [2 * count for count in pushed[0]]
        assert len(rows) == 2
        assert rows[0].any()
        assert rows[1].any()
        assert not any((row == rows[1]).all(1).any() for row in rows[0] if row.any())
    else:
        assert len(rows) == 1


def test_losses_of_fbr_are_means_over_views_and_counts_add_up():
    network, given = carried(True), batch(2, CLASSES)
    found = network(given)
    other = carried(True)
    seen = other.look(given)
    one = other.background(seen.features, seen.scores, given, seen.maps, seen.onto)
    other = carried(True)
    features, scores, maps = other.look(given).more[0]
    two = other.background(features, scores, given, maps)
    assert isinstance(one["nroi_spread"], tuple)
    for name, value in one.items():
        if isinstance(value, tuple):
            both = zip(found[name], value, two[name], strict=True)
            assert all(f.item() == pytest.approx((v + t).item(), rel=1e-5) for f, v, t in both)
        else:
            mean = (value + two[name]).item() / 2
            assert found[name].item() == pytest.approx(mean, rel=1e-5), name


def test_a_shared_projection_is_that_of_fbr():
    network, given = carried(True, projection=None), batch(2, CLASSES)
    assert not [name for name, _ in network.named_parameters() if name.startswith("project.")]
    network(given)["cross_cam"].backward()
    assert network.background.phi_fg.weight.grad.any()
    resting = made(projection=None).carry(Background(8, CLASSES, numbers.fbr(weight=NOTHING)))
    assert all(p.requires_grad for p in resting.background.phi_fg.parameters())
    with pytest.raises(Refusal, match="projection: found none without an fbr block"):
        made(projection=None)(given)


def test_what_is_saved_has_both_banks_and_comes_back():
    network, given = carried(True), batch(2, CLASSES)
    network(given)
    state = network.state_dict()
    assert {"background.bank.rows", "banks.0.rows"} <= state.keys()
    again = carried(True)
    again.load_state_dict(state)
    one, other = (n(given | {"step": 1})["l_fb"] for n in (network, again))
    assert one == other
