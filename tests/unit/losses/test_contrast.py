"""The contrast losses against one query and one key at a time; what sharing negatives changes."""

import math

import pytest
import torch
import torch.nn.functional as F

from fbr.cam.bank import Bank
from fbr.cam.seeds import draw_pixels
from fbr.losses.contrast import (
    BLOCK,
    across_keys,
    by_class,
    class_shares,
    mean_cosine,
    pixel_contrast,
    pixel_margin,
    prototype_contrast,
)
from tests.reference import fbr as twin

TAU = 0.5


def example(rows=20, classes=3, width=6, negatives=5, seed=0, labels=None):
    generator = torch.Generator().manual_seed(seed)
    queries, prototypes, others = (
        torch.randn(*shape, width, generator=generator)
        for shape in ((rows,), (classes,), (classes, negatives))
    )
    if labels is None:
        labels = torch.randint(0, 1 + classes, (rows,), generator=generator)
    return queries, labels, prototypes, others


def by_hand(loss, queries, labels, prototypes, negatives):
    """Losses per row, each with the negatives of its class, and the leaf that they come from."""
    leaf = queries.double().requires_grad_()
    values = [
        loss(z, prototypes[c - 1].double(), negatives[c - 1].double(), TAU) if c else 0 * leaf.sum()
        for z, c in zip(leaf, labels.tolist(), strict=True)
    ]
    return torch.stack(values), leaf


LABELS = {
    "mixed": None,
    "none": [0] * 20,
    "one": [2] * 20,
    "one query": [0] * 19 + [3],
    "no 2": [3, 1, 0, 1] * 5,
}


@pytest.mark.parametrize("labels", LABELS)
def test_contrast_and_its_gradient_are_the_equation(labels):
    chosen = LABELS[labels] and torch.tensor(LABELS[labels])
    queries, labels, prototypes, others = example(labels=chosen)
    leaf = queries.clone().requires_grad_()
    unit = (F.normalize(x, dim=-1) for x in (prototypes, others))
    found = prototype_contrast(F.normalize(leaf, dim=1), labels, *unit, TAU)
    expected, exact = by_hand(twin.contrast, queries, labels, prototypes, others)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.arange(1.0, 21)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)
    assert leaf.grad.any() == labels.any()


@pytest.mark.parametrize("rows", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("classes", [1, 3])
def test_blocks_of_any_filling_lose_no_row(rows, classes):
    queries, labels, prototypes, others = example(rows, classes, width=4, negatives=2)
    if classes == 1:
        labels[:] = 1
    unit = [F.normalize(x, dim=-1) for x in (queries, prototypes, others)]
    found = prototype_contrast(unit[0], labels, *unit[1:], TAU)
    one_by_one = torch.cat(
        [
            prototype_contrast(q[None], c[None], *unit[1:], TAU)
            for q, c in zip(unit[0], labels, strict=True)
        ]
    )
    torch.testing.assert_close(found, one_by_one)
    assert torch.equal(found > 0, labels > 0)
    places, of_block, filled = by_class(labels, classes)
    assert sorted(places[filled].tolist()) == labels.nonzero().flatten().tolist()
    assert torch.equal(labels[places[filled]], 1 + of_block.repeat_interleave(BLOCK)[filled])


def test_nothing_overflows_at_a_low_temperature():
    queries, labels, prototypes, others = example()
    leaf = F.normalize(queries, dim=1).requires_grad_()
    unit = [F.normalize(x, dim=-1) for x in (prototypes, others)]
    loss = prototype_contrast(leaf, labels, *unit, 1e-4)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert loss.max() > 1000
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize(
    ("present", "labels"),
    [
        ([1, 1, 1], [1, 2, 2, 3, 0]),
        ([1, 0, 1], [1, 1, 0, 1, 0]),
        ([0, 0, 0], [0, 0, 0, 0, 0]),
        ([0, 1, 0], [2, 2, 2, 2, 2]),
    ],
)
def test_mean_over_queries_then_over_classes_with_queries_or_without(present, labels):
    values = torch.arange(1.0, 6).double()
    counts = torch.tensor(labels).bincount(minlength=4)[1:]
    shares = class_shares(torch.tensor(labels), torch.tensor(present) > 0, counts)
    assert (values * shares).sum().item() == pytest.approx(
        twin.over_classes(values, labels, present).item()
    )


# As released


@pytest.mark.parametrize("labels", LABELS)
def test_across_keys_is_torchs_cosine_along_the_keys(labels):
    chosen = LABELS[labels] and torch.tensor(LABELS[labels])
    queries, labels, prototypes, others = example(labels=chosen)
    queries = queries.relu()  # with zeros, as projections have them
    queries[3] = 0
    others[:, :, 4] = 0
    prototypes[:, 4] = 0
    found = across_keys(queries, labels, prototypes, others, TAU)
    expected, _ = by_hand(twin.released_contrast, queries, labels, prototypes, others)
    torch.testing.assert_close(found.double(), expected.detach(), atol=1e-5, rtol=1e-5)


def test_across_keys_knows_only_signs():
    queries, labels, prototypes, others = example()
    found, scaled = (
        across_keys(q, labels, prototypes, others, TAU) for q in (queries, 9 * queries)
    )
    torch.testing.assert_close(found, scaled)


# Sharing negatives


def estimates(draw, queries, labels, prototypes, many):
    """The loss of `many` independent draws with negatives of each class, and of each query."""
    classes, rows = len(prototypes), len(queries)
    present, counts = torch.ones(classes).bool(), labels.bincount(minlength=1 + classes)[1:]

    def losses(negatives, per_query):
        """One loss for each set of negatives (many, sets, M, D); a set is a class of its own."""
        sets = negatives.shape[1]
        kinds = torch.arange(1, rows + 1) if per_query else labels
        places = (torch.arange(many)[:, None] * sets + kinds).flatten()
        towards = prototypes[labels - 1] if per_query else prototypes
        values = prototype_contrast(
            queries.repeat(many, 1), places, towards.repeat(many, 1), negatives.flatten(0, 1), TAU
        )
        return (values.view(many, -1) * class_shares(labels, present, counts)).sum(1)

    shared = losses(torch.stack([draw(torch.arange(classes), 8) for _ in range(many)]), False)
    own, half = (
        losses(torch.stack([draw(labels - 1, m) for _ in range(many)]), True) for m in (8, 4)
    )
    return shared, own, half


def apart(one, other):
    """Difference of two means in standard errors."""
    error = (one.var() / len(one) + other.var() / len(other)) ** 0.5
    return abs((one.mean() - other.mean()) / error)


@pytest.mark.parametrize("kind", ["bank", "pixels"])
def test_sharing_negatives_keeps_the_expectation(kind):
    queries, labels, prototypes, _ = example(12, 3, seed=4, labels=torch.tensor([1, 1, 2, 3] * 3))
    queries, prototypes = (F.normalize(x, dim=1) for x in (queries, prototypes))
    generator = torch.Generator().manual_seed(0)
    pool = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    kinds = torch.randint(0, 4, (40,), generator=generator)
    chance = torch.tensor([[0, 0.8, 0.2], [0.5, 0, 0.5], [0.9, 0.1, 0]])
    bank = Bank(40, 6, 3, torch.float32)
    bank.push(pool, torch.ones(40, 3), torch.ones(40).bool())

    def from_bank(of_class, negatives):
        return bank.draw(torch.rand(len(of_class), negatives, generator=generator))[0]

    def from_pixels(of_class, negatives):
        """Draw for every class as often as it is asked for, by the same function."""
        index = draw_pixels(
            chance, kinds, torch.rand(2, 3, len(of_class) * negatives, generator=generator)
        )
        index = index.view(3, len(of_class), negatives)
        return pool[index[of_class, torch.arange(len(of_class))]]

    draw = {"bank": from_bank, "pixels": from_pixels}[kind]
    shared, own, half = estimates(draw, queries, labels, prototypes, 400)
    assert apart(shared, own) < 4
    assert apart(shared, half) > 20
    assert shared.std() < 3 * own.std()


# Both ways


def both_ways(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels, prototypes, regions = (
        torch.randn(*shape, 4, generator=generator) for shape in ((2, 9), (3,), (5,))
    )
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    seeds = torch.tensor([[0, 1, 3, -1, 0, 3, 1, 1, -1], [2, 2, 0, 0, -1, -1, 2, 0, 0]])
    return pixels, seeds, labels, prototypes, regions


def test_sure_pixels_are_contrasted_with_classes_and_background():
    pixels, seeds, labels, prototypes, regions = both_ways()
    leaf, exact = pixels.clone().requires_grad_(), pixels.double().requires_grad_()
    unit = [F.normalize(x, dim=-1) for x in (leaf, prototypes, regions)]
    found = pixel_contrast(unit[0], seeds, labels, *unit[1:], 8, TAU)
    expected = torch.stack(
        [
            twin.sides(z, s, y, prototypes.double(), regions.double(), 8, TAU)
            for image, row, y in zip(exact, seeds.tolist(), labels, strict=True)
            for z, s in zip(image, row, strict=True)
        ]
    ).view_as(found)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)
    assert not leaf.grad[seeds < 0].any()


def test_a_pixel_on_a_prototype_is_nearer_to_it_than_to_other_ground():
    prototypes, regions = torch.eye(4)[:2], torch.eye(4)[2:]
    margin = pixel_margin(torch.eye(4)[None], prototypes, regions, 2, 0.1)[0]
    assert margin[0, 0] > 5
    assert margin[2, 0] < -5
    assert margin[0, 1] == pytest.approx(-math.log(2))  # as far from it as from both regions


def test_mean_cosine_of_rows_with_zeros_is_finite_and_right():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 5, 4, generator=generator)
    a[0, 0] = 0
    leaf = a.clone().requires_grad_()
    found = mean_cosine(leaf, b)
    expected = twin.similarity(a.double(), b.double())
    torch.testing.assert_close(found.detach().double(), expected, atol=1e-6, rtol=1e-6)
    found.backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_mean_cosine_has_the_gradient_of_what_is_written_out(size):
    rows = torch.randn(2, *size, 4, generator=torch.Generator().manual_seed(0)).double()
    rows.requires_grad_()
    found, expected = (
        torch.autograd.grad(3 * how(*rows), rows)[0] for how in (mean_cosine, twin.similarity)
    )
    torch.testing.assert_close(found, expected)


def test_mean_cosine_pulls_no_row_that_is_next_to_zero_out_of_all_bounds():
    a, b = torch.eye(3)[:2] * torch.tensor([[1e-9], [1.0]]), torch.ones(2, 3)
    leaf = a.clone().requires_grad_()
    mean_cosine(leaf, b).backward()
    # A row whose square is clamped is scaled by a constant; its gradient is that, times the other.
    torch.testing.assert_close(leaf.grad[0], 0.5e8 * b[0])
