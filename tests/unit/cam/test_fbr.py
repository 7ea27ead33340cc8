"""FBR as a whole: losses and gradients against the equations, and where nothing is left."""

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from fbr.cam import seeds as reading
from fbr.cam.fbr import Background, Draws, capped
from fbr.positions import Onto, Positions
from tests.reference import fbr as twin
from tests.reference import numbers

CHANNELS, CLASSES = 8, 3
NAMES = ("l_fb", "l_if", "l_seg", "l_sim")
CONTRASTS = ("l_fb", "l_if")
SIZES = [(3, 5, 7), (1, 6, 6), (4, 3, 1)]


def background(**changes) -> Background:
    torch.manual_seed(0)
    return Background(CHANNELS, CLASSES, numbers.fbr(**changes)).train()


def given(images=3, height=5, width=7, seed=0, step=0):
    """Features, scores and a batch in which every class is shown by some image."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, CHANNELS, height, width, generator=generator).relu()
    scores = torch.randn(images, 1 + CLASSES, height, width, generator=generator)
    label = torch.randint(0, 2, (images, CLASSES), generator=generator).float()
    label[torch.arange(CLASSES) % images, torch.arange(CLASSES)] = 1
    return features, scores, {"label": label, "step": step, "seed": 5}


def losses(module, features, scores, batch) -> dict:
    return {name: value for name, value in module(features, scores, batch).items() if name in NAMES}


def only(name: str) -> dict[str, float]:
    return {other: float(other == name) for other in NAMES}


# Against the equations


def test_collapse_is_watched(monkeypatch):
    """The background's norm, how NROIs spread, and how many lie on companion grounds."""
    module = background(nrois=4)
    features, scores, batch = given(images=4, height=6, width=8)
    fine = torch.rand(4, 18, 24, generator=torch.Generator().manual_seed(3)) < 0.5
    batch["companions"] = fine.to(torch.uint8) * 2
    found = module.read(scores, module.project(features)[0], batch)
    held = []
    remember = module._remember
    monkeypatch.setattr(
        module, "_remember", lambda *given: held.append(remember(*given)) or held[0]
    )
    values = module(features, scores, batch)
    u, (regions, count) = module.project(features)[1].detach(), held[0]
    ground = fine[:, ::3, ::3].flatten(1)  # where a network's positions lie
    expected = twin.watched(*(part.numpy() for part in (u, found.label, regions, count, ground)))
    names = ("background_norm", "nroi_spread", "nroi_companions")
    assert 0 < expected[2][0] < expected[2][1]
    for name, want in zip(names, expected, strict=True):
        assert torch.allclose(torch.as_tensor(values[name]).float(), torch.as_tensor(want).float())


def test_companions_are_read_where_positions_lie():
    """Every fourth of 26 rows has a position; seven equal parts would begin at others, too."""
    module = background(nrois=4)
    module.positions = Positions(4)
    features, scores, batch = given(images=2, height=7, width=7)
    ground = torch.ones(2, 26, 26, dtype=torch.uint8)
    ground[:, ::4] = 0
    found = [
        module(features, scores, batch | {"companions": companions})["nroi_companions"][0].item()
        for companions in (ground, 1 - ground)
    ]
    assert found[0] == 0 < found[1]


def test_a_coarser_grid_is_for_contrasts_alone(monkeypatch):
    """Projections shrink after their ReLU; L_seg and L_sim stay where the features are."""

    def still() -> Background:
        module = background()
        module.dropout = torch.nn.Identity()
        return module

    features, scores, batch = given(height=8, width=6)
    maps, onto = scores[:, 1:] + 1, Onto((16, 12), (8, 6), Positions(2))
    found = still()(features, scores, batch, maps, onto)
    own = still()(features, scores, batch, maps)
    module = still()
    z, u = (onto(F.conv2d(features, phi.weight).relu()) for phi in (module.phi_fg, module.phi_bg))
    monkeypatch.setattr(module, "project", lambda _: (z.flatten(2).mT, u.flatten(2).mT))
    small = onto(scores)
    coarse = module(torch.zeros(3, CHANNELS, 4, 3), small, batch, small[:, 1:])
    for name, other in {"l_seg": own, "l_sim": own, "l_fb": coarse, "l_if": coarse}.items():
        assert found[name].item() == pytest.approx(other[name].item(), rel=1e-5), name
    for name, other in {"l_seg": coarse, "l_sim": coarse, "l_fb": own, "l_if": own}.items():
        assert found[name].item() != pytest.approx(other[name].item(), rel=1e-3), name


class Recorded:
    """The negatives that a module draws, for its twin to take the same."""

    def __init__(self, monkeypatch, module) -> None:
        draw_rows, draw_pixels = module.bank.draw, reading.draw_pixels

        def rows(uniform):
            drawn = draw_rows(uniform)
            self.rows = drawn[0]
            return drawn

        def pixels(*arguments):
            self.chance, self.label, _ = arguments
            self.pixels = draw_pixels(*arguments)
            return self.pixels

        monkeypatch.setattr(module.bank, "draw", rows)
        monkeypatch.setattr(reading, "draw_pixels", pixels)


def by_hand(module, features, scores, batch, negatives) -> tuple[dict, dict]:
    """Losses in double precision, and the leaves that they come from."""
    n, label = module.numbers, batch["label"].numpy()
    leaves = {"features": features.double().flatten(2).mT.requires_grad_()}
    for name in ("phi_fg", "phi_bg"):
        weight = getattr(module, name).weight.detach().double()
        leaves[name] = weight.flatten(1).requires_grad_()
    z, back = ((leaves["features"] @ leaves[name].mT).clamp(min=0) for name in ("phi_fg", "phi_bg"))
    shown = label * 0 + 1 if n.mode == "released" else label
    tau = None if n.seed_background == "learned" else n.seed_background
    flat = scores.flatten(2).numpy()
    score, chance, found = twin.seeds(flat, shown, tau, n.scores == "softmax")
    asked = twin.queries(score, chance, found, n.unsure_rank, n.unsure_entropy, n.blank_background)
    pixels = z.detach()
    top = max(1, z.shape[1] // n.prototype_part)
    centres = torch.tensor(twin.prototypes(score, found, pixels.numpy(), top))
    kinds = (found * asked).flatten().tolist()
    present = [(found == c).any() for c in range(1, 1 + CLASSES)]
    # Negatives are the module's own draws: of the right classes, by the right chances.
    chance = torch.tensor(twin.graph(centres, present, n.temperature))
    torch.testing.assert_close(negatives.chance.double(), chance, atol=1e-5, rtol=0)
    assert negatives.label.tolist() == found.flatten().tolist()
    keys = {"l_fb": negatives.rows.double(), "l_if": pixels.flatten(0, 1)[negatives.pixels]}
    values = {}
    for name in CONTRASTS:
        loss = twin.contrast
        if n.mode != "intent" and name == "l_fb":
            loss = twin.released_contrast
        terms = [
            loss(q, centres[c - 1], keys[name][c - 1], n.temperature) if c else 0
            for q, c in zip(z.flatten(0, 1), kinds, strict=True)
        ]
        values[name] = twin.over_classes(terms, kinds, present)
    values["l_sim"] = twin.similarity(z, back)
    raw = leaves["features"] @ leaves["phi_bg"].mT
    target = twin.background_target(flat[:, 1:], label, n.background_below)
    values["l_seg"] = twin.segmentation(head(module, raw), target)
    return {name: getattr(n.weight, name) * values[name] for name in NAMES}, leaves


def head(module, raw):
    """φ_seg (ReLU, no dropout, 1×1) of double values (B, N, D)."""
    return raw.clamp(min=0) @ module.phi_seg.weight.detach().double().flatten()


@pytest.fixture
def compare(monkeypatch):
    """Losses and leaves of a module and of its twin, after some steps that filled the bank."""

    def compare(size, scores="cam", **changes):
        module = background(scores=scores, **changes)
        module.dropout = torch.nn.Identity()
        for step in range(3):
            module(*given(*size, seed=step, step=step))
        features, maps, batch = given(*size, seed=9, step=3)
        negatives = Recorded(monkeypatch, module)
        leaf = features.clone().requires_grad_()
        found = losses(module, leaf, maps, batch)
        expected, exact = by_hand(module, features, maps, batch, negatives)
        leaves = {
            "features": leaf,
            "phi_fg": module.phi_fg.weight,
            "phi_bg": module.phi_bg.weight,
        }
        return found, leaves, expected, exact

    return compare


def gradient(loss, leaf):
    (found,) = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def as_rows(name, value):
    """A gradient in the layout of the twin's leaf."""
    return value.flatten(2).mT if name == "features" else value.flatten(1)


WEIGHTS = {"l_fb": 0.5, "l_if": 2.0, "l_seg": 0.3, "l_sim": 0.7}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scores", ["cam", "softmax"])
def test_losses_and_gradients_are_the_equations(compare, name, size, scores):
    found, leaves, expected, exact = compare(size, scores, weight=WEIGHTS)
    assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-5)
    assert expected[name] != 0
    for part in leaves:
        one = as_rows(part, gradient(found[name], leaves[part])).double()
        other = gradient(expected[name], exact[part])
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert other.any() == (part != {"l_seg": "phi_fg"}.get(name, "phi_bg") or name == "l_sim")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scores", ["cam", "softmax"])
@pytest.mark.parametrize("mode", ["released", "released_ppc"])
def test_released_losses_are_the_equations_and_contrasts_train_nothing(
    compare, name, size, scores, mode
):
    found, leaves, expected, _ = compare(size, scores, mode=mode)
    assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-5)
    assert found[name] > 0
    reached = {
        part
        for part, leaf in leaves.items()
        if found[name].requires_grad and gradient(found[name], leaf).any()
    }
    trained = {"l_seg": {"features", "phi_bg"}, "l_sim": {"features", "phi_fg", "phi_bg"}}
    if mode == "released_ppc":  # there only L_fb is without
        trained["l_if"] = {"features", "phi_fg"}
    assert reached == trained.get(name, set())


def test_background_is_where_the_map_of_a_class_is_far_below_its_peak():
    """A map that is nowhere zero is divided by its peak; its least value stays above."""
    features, scores, batch = given()
    module = background(weight=only("l_seg"))
    module.dropout = torch.nn.Identity()
    scores, batch["label"] = scores.abs() + 1, torch.eye(3)
    raw = features.double().flatten(2).mT @ module.phi_bg.weight.detach().double().flatten(1).mT
    target = twin.background_target(scores[:, 1:].flatten(2).numpy(), batch["label"].numpy(), 0.05)
    assert not target.any()
    expected = twin.segmentation(head(module, raw), target)
    found = module(features, scores, batch)["l_seg"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


# Gradients


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_contrast_alone_trains_the_foreground_and_nothing_else(name):
    module = background(weight=only(name))
    for step in range(2):
        features, scores, batch = given(seed=step, step=step)
        leaf = features.requires_grad_()
        total = sum(losses(module, leaf, scores, batch).values())
    total.backward()
    assert module.phi_fg.weight.grad.abs().max() > 1e-4
    assert leaf.grad.abs().max() > 1e-4
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {"phi_fg.weight"}
    assert not any(buffer.requires_grad for buffer in module.buffers())


@pytest.mark.parametrize("name", CONTRASTS)
def test_contrasts_give_the_background_head_no_gradient_where_it_trains(name):
    module = background()
    features, scores, batch = given()
    loss = losses(module, features, scores, batch)[name]
    assert loss > 0
    assert not gradient(loss, module.phi_bg.weight).any()
    assert not gradient(loss, module.phi_seg.weight).any()


@pytest.mark.parametrize("mode", ["intent", "released", "released_ppc"])
def test_what_no_loss_reaches_does_not_train(mode):
    def trained(**weight):
        found = background(mode=mode, weight=dict.fromkeys(NAMES, 0.0) | weight)
        return {n.split(".")[0] for n, p in found.named_parameters() if p.requires_grad}

    assert trained() == set()
    assert trained(l_fb=1.0) == ({"phi_fg"} if mode == "intent" else set())
    assert trained(l_if=1.0) == (set() if mode == "released" else {"phi_fg"})
    assert trained(l_seg=1.0) == {"phi_bg", "phi_seg"}
    assert trained(l_sim=1.0) == {"phi_fg", "phi_bg"}


@pytest.mark.parametrize("mode", ["intent", "released", "released_ppc"])
@pytest.mark.parametrize("weight", [{}, only("l_fb"), only("l_if"), only("l_seg"), only("l_sim")])
def test_every_trained_parameter_has_a_gradient_from_the_first_step_on(mode, weight):
    """Several processes wait for it, also before a loss acts."""
    module = background(mode=mode, weight=weight, from_step=dict.fromkeys(NAMES, 3))
    features, scores, batch = given()
    values = losses(module, features, scores, batch).values()
    with_gradient = [value for value in values if value.requires_grad]
    if with_gradient:
        torch.stack(with_gradient).sum().backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


# Where nothing is left: zeros that are connected


def assert_zero(module, leaf, value):
    assert value.item() == 0
    assert value.requires_grad
    for target in (leaf, module.phi_fg.weight):
        found = gradient(value, target)
        assert found.isfinite().all()
        assert not found.any()


def run(module, features, scores, batch):
    leaf = features.clone().requires_grad_()
    found = losses(module, leaf, scores, batch)
    sum(found.values()).backward(retain_graph=True)
    assert leaf.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    return leaf, found


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1), (1, 5, 7), (3, 5, 7)])
def test_no_foreground(size):
    module = background()
    features, scores, batch = given(*size)
    leaf, found = run(module, features, -scores.abs(), batch)
    for name in CONTRASTS:
        assert_zero(module, leaf, found[name])
    assert module.bank.held == size[0] * min(3, size[1] * size[2])


def test_no_class_in_any_image():
    module = background()
    features, scores, batch = given()
    leaf, found = run(module, features, scores, batch | {"label": 0 * batch["label"]})
    for name in CONTRASTS:
        assert_zero(module, leaf, found[name])


def test_one_class_has_no_other_to_be_told_from():
    module = background()
    features, scores, batch = given()
    batch["label"][:] = torch.tensor([0.0, 1.0, 0.0])
    leaf, found = run(module, features, scores, batch)
    assert_zero(module, leaf, found["l_if"])
    assert found["l_fb"] > 0


def test_no_query():
    module = background(unsure_entropy=1.0)
    leaf, found = run(module, *given())
    for name in CONTRASTS:
        assert_zero(module, leaf, found[name])


def test_no_background_while_the_bank_is_empty():
    module = background(seed_background=0.0)
    features, scores, batch = given(1)
    scores[:, 1] = torch.linspace(0, 1, 35).view(5, 7)
    scores[:, 2] = 1 - scores[:, 1]
    batch["label"][:] = torch.tensor([1.0, 1.0, 0.0])
    leaf, found = run(module, features, scores, batch)
    assert module.bank.held == 0
    assert_zero(module, leaf, found["l_fb"])
    assert found["l_if"] > 0


def test_features_of_zero():
    """A cosine with nothing is 0: M equals beside the prototype."""
    features, scores, batch = given()
    _, found = run(background(), 0 * features, scores, batch)
    for name in CONTRASTS:
        assert found[name].item() == pytest.approx(math.log(1 + 8), rel=1e-5)


# Time and draws


def test_a_loss_begins_at_its_step_and_the_bank_before_it():
    starts = {"l_fb": 1, "l_if": 2, "l_seg": 3, "l_sim": 4}
    module = background(from_step=starts)
    for step in range(6):
        found = losses(module, *given(seed=step, step=step))
        assert {n for n in NAMES if found[n] != 0} == {n for n in NAMES if step >= starts[n]}
        assert module.bank.held == min(50, 9 * (step + 1))


def test_weights_multiply():
    once, twice = (losses(background(weight=dict.fromkeys(NAMES, w)), *given()) for w in (1.0, 2.0))
    for name in (*CONTRASTS, "l_sim"):
        torch.testing.assert_close(2 * once[name], twice[name])


def test_the_images_own_background_is_pushed_before_it_is_drawn(monkeypatch):
    module = background()
    held = []
    draw = module.bank.draw
    monkeypatch.setattr(
        module.bank, "draw", lambda uniform: (held.append(int(module.bank.held)), draw(uniform))[1]
    )
    module(*given())
    assert held == [9]


@pytest.mark.parametrize("kind", ["prototype", "pixels"])
def test_simpler_alternatives_to_nrois(kind):
    """The mean of all the batch's background, or its pixels, in the bank."""
    module = background(background=kind, bank=200)
    features, scores, batch = given()
    found = losses(module, features, scores, batch)
    assert all(found[name] > 0 for name in CONTRASTS)
    z, u = module.project(features)
    inside = module.read(scores, z, batch).label == 0
    assert 0 < inside.sum() < inside.numel()
    expected, shown = u[inside], batch["label"][:, None].expand(-1, 35, -1)[inside]
    if kind == "prototype":
        expected, shown = expected.mean(0, keepdim=True), torch.zeros(1, CLASSES)
    count = len(expected)
    assert module.bank.held == count
    torch.testing.assert_close(module.bank.rows[:count], expected)
    assert torch.equal(module.bank.labels[:count], shown > 0)
    module(features, -scores[:, :1] + 0 * scores, batch | {"label": 0 * batch["label"]})
    assert module.bank.held == count + (1 if kind == "prototype" else inside.numel())


@pytest.mark.parametrize("kind", ["prototype", "pixels"])
def test_no_background_leaves_the_bank_as_it_is(kind):
    module = background(background=kind, seed_background=0.0)
    features, scores, batch = given(1)
    scores[:, 1] = torch.linspace(0, 1, 35).view(5, 7)
    scores[:, 2] = 1 - scores[:, 1]
    batch["label"][:] = torch.tensor([1.0, 1.0, 0.0])
    found = losses(module, features, scores, batch)
    assert module.bank.held == 0
    assert found["l_fb"] == 0


def contrasts(seed, step, **changes):
    features, scores, batch = given()
    module = background(**changes)
    found = losses(module, features, scores, batch | {"seed": seed, "step": step})
    return [found[name].item() for name in CONTRASTS] + module.bank.rows.flatten().tolist()


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_draws_depend_on_seed_and_step_alone(start):
    base = contrasts(3, 7, start=start, iterations=0)
    torch.manual_seed(99)
    assert contrasts(3, 7, start=start, iterations=0) == base
    for other in ((3, 8), (4, 7), (3 + 2**20, 7), (7, 3)):
        found = contrasts(*other, start=start, iterations=0)
        assert found[0] != base[0], other
        assert found[1] != base[1], other
        assert found[2:] != base[2:], other


def test_draws_take_any_seed():
    drawn = [Draws(seed, 1, torch.device("cpu")).uniform(4) for seed in (0, 1, 2**32, 2**62)]
    assert not torch.equal(drawn[0], drawn[1])


# The cap on queries


def test_a_cap_keeps_any_queries_of_a_class_alike():
    label = torch.tensor([[1, 0, 2, 1, 1], [2, 1, 1, 3, 0]])
    query = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1]]) > 0
    generator = torch.Generator().manual_seed(0)
    asked = [(0, 0), (0, 3), (0, 4), (1, 1)]  # of class 1
    pairs = dict.fromkeys(combinations(asked, 2), 0)
    for _ in range(1200):
        kept = capped(query, label, 3, 2, torch.rand(2, 5, generator=generator))
        assert not (kept & ~(query & (label > 0))).any()
        assert (label * kept).flatten().bincount(minlength=4)[1:].tolist() == [2, 1, 1]
        pairs[tuple(place for place in asked if kept[place])] += 1
    assert chisquare(list(pairs.values())).pvalue > 0.001


def test_a_large_cap_keeps_all_and_no_cap_is_no_cap():
    plain = losses(background(), *given())
    loose = losses(background(cap=1000), *given())
    tight = losses(background(cap=1), *given())
    assert loose["l_sim"] == plain["l_sim"]
    assert loose["l_fb"] > 0
    assert tight["l_fb"] != loose["l_fb"]


# Numbers of less precision


@pytest.mark.parametrize("bank_dtype", ["float32", "bfloat16"])
def test_bfloat16_gives_the_same_losses(bank_dtype):
    found = []
    for enabled in (False, True):
        module = background(bank_dtype=bank_dtype)
        module.dropout = torch.nn.Identity()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for step in range(3):
                features, scores, batch = given(3, 8, 8, seed=step, step=step)
                leaf = features.requires_grad_()
                values = losses(module, leaf, scores, batch)
        assert all(value.dtype == torch.float32 for value in values.values())
        leaves = leaf, module.phi_fg.weight
        slopes = [gradient(values[name], part) for name in CONTRASTS for part in leaves]
        found.append((values, slopes))
    (exact, exact_slopes), (mixed, mixed_slopes) = found
    for name in NAMES:
        assert exact[name].item() == pytest.approx(mixed[name].item(), abs=1e-2)
    for one, other in zip(exact_slopes, mixed_slopes, strict=True):
        assert one.any()
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-2)


def test_pooling_of_released_seeds_shows_absent_classes(monkeypatch):
    seen = {}
    real = reading.seeds

    def seeds(scores, labels, chosen):
        seen[chosen.mode] = real(scores, labels, chosen)
        return seen[chosen.mode]

    monkeypatch.setattr(reading, "seeds", seeds)
    features, scores, batch = given()
    for mode in ("intent", "released"):
        background(mode=mode)(features, scores, batch)
        classes = F.one_hot(seen[mode].label, 1 + CLASSES).any(1)[:, 1:]
        assert bool((classes & (batch["label"] == 0)).any()) == (mode == "released")
