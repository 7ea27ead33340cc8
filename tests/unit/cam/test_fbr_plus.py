"""What we added to FBR: sure seeds, one space, running prototypes, both ways, maps read anew."""

import pytest
import torch
import torch.nn.functional as F

from fbr.cam.fbr import Background, Draws
from fbr.cam.plain import Plain
from fbr.errors import Refusal
from fbr.losses.contrast import pixel_contrast
from fbr.nets import backbones
from fbr.params import Fbr, check
from tests.reference import fbr as twin
from tests.reference import numbers

CHANNELS, CLASSES = 8, 3
PLUS = {
    "weight": {"l_fb": 0.0, "l_if": 0.0, "l_seg": 0.0, "l_sim": 0.0, "l_pix": 1.0},
    "one_space": True,
    "sure": {"foreground": 0.6, "background": 0.3},
    "momentum": 0.5,
    "maps": "product",
}


def background(**changes) -> Background:
    torch.manual_seed(0)
    return Background(CHANNELS, CLASSES, numbers.fbr(**PLUS | changes)).train()


def given(seed=0, images=4, height=5, width=7):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, CHANNELS, height, width, generator=generator).relu()
    scores = torch.randn(images, 1 + CLASSES, height, width, generator=generator)
    label = F.one_hot(torch.arange(images) % CLASSES, CLASSES).float()
    image = torch.randn(images, 3, 4 * height, 4 * width, generator=generator)
    return features, scores, {"label": label, "step": seed, "seed": 1, "image": image}


def after(module, steps=3):
    for step in range(steps):
        module(*given(step))
    return module


def test_seeds_are_left_out_between_the_two_thresholds():
    module = background()
    features, scores, batch = given()
    z, _ = module.project(features)
    found = module.read(scores, z, batch)
    best, which = found.score[:, 1:].max(1)
    assert torch.equal(found.label == 0, best < 0.3)
    assert torch.equal(found.label > 0, best > 0.6)
    assert torch.equal(found.label[best > 0.6], 1 + which[best > 0.6])
    assert (found.label == -1).any()


def test_both_ways_is_the_mean_over_sure_foreground_and_over_sure_background():
    module = after(background())
    features, scores, batch = given(9)
    drawn = {}
    draw = module.bank.draw

    def noted(uniform):
        drawn[uniform.dim()] = draw(uniform)[0]
        return draw(uniform)

    module.bank.draw = noted
    leaf = features.clone().requires_grad_()
    found = module(leaf, scores, batch)["l_pix"]
    n, unit = module.numbers, F.normalize(module.prototypes, dim=1)
    z, _ = module.project(features)
    label = module.read(scores, z, batch).label
    regions = F.normalize(drawn[1], dim=1)
    each = pixel_contrast(
        F.normalize(z, dim=2), label, batch["label"], unit, regions, n.nrois, n.temperature
    )
    torch.testing.assert_close(found, each[label > 0].mean() + each[label == 0].mean())
    found.backward()
    assert leaf.grad.any()
    assert not module.bank.rows.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_prototypes_are_running_means_over_the_batches_that_show_a_class(momentum):
    module = background(momentum=momentum)
    kept = torch.zeros(CLASSES, module.numbers.width, dtype=torch.float64)
    known = [False] * CLASSES
    for step in range(4):
        features, scores, batch = given(step)
        batch["label"][:, step % CLASSES] = 0  # this one is not shown
        z, _ = module.project(features)
        found = module.read(scores, z, batch)
        top = max(1, z.shape[1] // module.numbers.prototype_part)
        now = twin.prototypes(found.score.numpy(), found.label.numpy(), z.detach().numpy(), top)
        for c, row in enumerate(torch.tensor(now)):
            if not row.any():
                continue
            kept[c] = momentum * kept[c] + (1 - momentum) * row if known[c] else row
            known[c] = True
        module(features, scores, batch)
        torch.testing.assert_close(module.prototypes.double(), kept, atol=1e-5, rtol=1e-4)


def test_one_space_has_one_projection_and_no_similarity_of_two():
    module = background()
    assert module.phi_bg is None
    z, u = module.project(given()[0])
    assert z is u or torch.equal(z, u)
    assert "l_sim" not in module(*given())
    with pytest.raises(Refusal, match="one_space has one, so set it to 0"):
        check(numbers.fbr().model_dump() | {"one_space": True}, Fbr, "fbr")


def test_maps_are_the_methods_own_or_chances_or_their_product():
    torch.manual_seed(0)
    method = Plain(backbones.build("small", 8), CLASSES, Plain.Options())
    carried = method.carry(Background(method.width, CLASSES, numbers.fbr(**PLUS))).eval()
    images = torch.randn(2, 3, 40, 32)
    own, features = method.activate(images)
    step = {"label": torch.ones(2, CLASSES), "step": 0, "seed": 0, "image": images}
    carried.background(features.detach(), F.pad(own.detach(), (0, 0, 0, 0, 1, 0)), step)
    maps = {}
    for kind in ("cam", "chance", "product"):
        carried.background.numbers = numbers.fbr(**PLUS | {"maps": kind})
        maps[kind] = carried.maps(images).detach()
    assert torch.equal(maps["cam"], own)
    assert (maps["chance"] > 0).all()
    assert (maps["chance"] < 1).all()
    torch.testing.assert_close(maps["product"], maps["cam"] * maps["chance"])
    assert maps["chance"].std() > 0


def test_seeds_are_relabelled_from_their_step_on():
    module = after(background(relabel_from=5))
    features, scores, batch = given(4)
    z, _ = module.project(features)
    before = module.read(scores, z, batch)
    later = module.read(scores, z, batch | {"step": 5})
    chance = module._chance(z).view_as(scores[:, 1:])
    product = torch.cat([scores[:, :1], scores[:, 1:].relu() * chance], 1)
    again = background().read(product, z, batch)
    assert not torch.equal(before.score, later.score)
    assert torch.equal(later.score, again.score)


def test_relabelled_logits_are_the_product_of_chances():
    """Beside the background's, which no prototype speaks of, and shared out anew."""
    asks = {"scores": "softmax", "seed_background": "learned"}
    module = after(background(relabel_from=5, **asks))
    features, scores, batch = given(4)
    z, _ = module.project(features)
    later = module.read(scores, z, batch | {"step": 5}).chance
    first = scores.flatten(2).softmax(1)
    product = torch.cat([first[:, :1], first[:, 1:] * module._chance(z).clamp(min=1e-5)], 1)
    product = product / product.sum(1, keepdim=True)
    shown = F.pad(batch["label"], (1, 0), value=1)[:, :, None]
    torch.testing.assert_close(later, product * shown)


def test_what_is_ours_keeps_no_gradient_in_memory_and_resumes():
    module = after(background(follow_colours={"steps": 2, "dilations": [1], "contrast": 0.3}))
    other = background(follow_colours={"steps": 2, "dilations": [1], "contrast": 0.3})
    other.load_state_dict(module.state_dict())
    torch.manual_seed(3)
    one = module(*given(7))
    torch.manual_seed(3)
    two = other(*given(7))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)
    assert not module.prototypes.requires_grad


def test_no_sure_pixel_costs_nothing_and_stays_connected():
    module = background(sure={"foreground": 1.0, "background": 0.0})
    features, scores, batch = given()
    leaf = features.requires_grad_()
    found = module(leaf, scores, batch)["l_pix"]
    assert found == 0
    found.backward()
    assert not leaf.grad.any()


def test_an_empty_bank_costs_nothing_and_stays_connected():
    """While no image has shown background, there is nothing to tell the sure foreground from."""
    module = background(sure=None, seed_background=0.0)
    features, scores, batch = given()
    leaf = features.requires_grad_()
    module._remember = lambda u, label, *_: (u[:, :1], label[:, :1] > label.max())
    found = module(leaf, scores, batch)["l_pix"]
    assert module.bank.held == 0
    assert (module.read(scores, module.project(features)[0], batch).label > 0).any()
    assert found == 0
    found.backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


# Which NROIs a class is told apart from


def banked(**changes) -> Background:
    """A module whose bank holds rows of three kinds of images, each showing one class."""
    weight = {"l_sim": 0.0, "l_seg": 0.0}
    module = background(negatives=40, pool=5, bank=60, weight=weight, **changes)
    rows = torch.randn(60, module.numbers.width, generator=torch.Generator().manual_seed(0))
    shown = F.one_hot(torch.arange(60) % CLASSES, CLASSES)
    module.bank.push(rows, shown, torch.ones(60, dtype=torch.bool))
    return module


def picked(module, step=0):
    """Indices into the bank (K, M) of what was drawn, and the prototypes."""
    unit = F.normalize(torch.eye(CLASSES, module.numbers.width), dim=1)
    rows = module._negatives(unit, Draws(1, step, torch.device("cpu")))
    same = (rows[:, :, None] == module.bank.rows).all(3)
    return same.to(torch.uint8).argmax(2), unit


def test_foreign_negatives_come_from_images_without_the_class():
    index, _ = picked(banked(foreign=True))
    for c, row in enumerate(index.tolist()):
        assert len(row) == 40
        assert all(i % CLASSES != c for i in row)


def test_foreign_negatives_may_be_hard_as_well():
    """However near: what shows the class comes after all that does not."""
    module = banked(foreign=True, hard=0.5)
    unit = F.normalize(torch.eye(CLASSES, module.numbers.width), dim=1)
    module.bank.rows.copy_(torch.where(module.bank.labels[:, :1], 1.0, -1.0) * unit[:1])
    rows = module._negatives(unit, Draws(1, 0, torch.device("cpu")))
    assert (rows[0, :, 0] == -1).all()


def test_where_every_image_shows_the_class_any_will_do():
    module = banked(foreign=True)
    module.bank.labels.fill_(True)
    index, _ = picked(module)
    assert index.shape == (CLASSES, 40)
    assert len(index.unique()) > 20


def test_a_share_of_negatives_are_the_nearest_of_the_pool():
    module = banked(hard=0.25)
    index, unit = picked(module)
    near = F.normalize(module.bank.rows, dim=1) @ unit.mT
    pool = module.bank.draw(Draws(1, 0, torch.device("cpu")).uniform(CLASSES, 200))[0]
    for c in range(CLASSES):
        best = (F.normalize(pool[c], dim=1) @ unit[c]).sort(descending=True).values[:10]
        torch.testing.assert_close(near[index[c, :10], c].sort(descending=True).values, best)
    # The others are draws as any, but for the few rows whose every copy was among the nearest.
    others = torch.cat([picked(module, step)[0][:, 10:] for step in range(50)], 1)
    for c in range(CLASSES):
        counts = others[c].bincount(minlength=60)
        assert (counts > 0).sum() >= 55
        assert counts.max() < 3 * counts.float().mean()
        assert near[others[c], c].mean() < near[index[c, :10], c].min()
