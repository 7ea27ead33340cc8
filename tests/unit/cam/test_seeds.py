"""Seeds, queries, prototypes and their graph against the loops over images, classes and pixels."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fbr.cam import seeds as reading
from fbr.cam.seeds import Seeds
from tests.reference import fbr as twin
from tests.reference import numbers

SIZES = [(1, 1), (1, 35), (3, 35), (2, 101), (1, 1024)]  # images, positions
CLASSES = 4


def example(images, positions, classes=CLASSES, seed=0):
    """Scores of both signs and labels; every second image shows one class, every fourth none."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(images, 1 + classes, positions, generator=generator)
    labels = torch.randint(0, 2, (images, classes), generator=generator).float()
    labels[1::2] = torch.eye(classes)[0]
    labels[3::4] = 0
    return scores, labels


def by_hand(scores, labels, found_numbers):
    tau = found_numbers.seed_background
    masked = labels if found_numbers.mode == "intent" else torch.ones_like(labels)
    return twin.seeds(
        scores.numpy(),
        masked.numpy(),
        None if tau == "learned" else tau,
        found_numbers.scores == "softmax",
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scores", ["cam", "softmax"])
@pytest.mark.parametrize("background", [0.1, 0.0, "learned"])
@pytest.mark.parametrize("mode", ["intent", "released"])
def test_seeds_are_the_equations(size, scores, background, mode):
    chosen = numbers.fbr(scores=scores, seed_background=background, mode=mode)
    given, labels = example(*size)
    found = reading.seeds(given, labels, chosen)
    score, chance, label = by_hand(given, labels, chosen)
    np.testing.assert_array_equal(found.label.numpy(), label)
    np.testing.assert_allclose(found.score.numpy(), score, atol=1e-5)
    np.testing.assert_allclose(found.chance.numpy(), chance, atol=1e-5)


@pytest.mark.parametrize("scores", ["cam", "softmax"])
def test_a_class_that_is_not_in_the_image_is_a_seed_as_released_only(scores):
    given, labels = example(4, 101)
    absent = labels == 0
    for mode, expected in (("intent", False), ("released", True)):
        found = reading.seeds(given, labels, numbers.fbr(scores=scores, mode=mode))
        kinds = torch.stack([(found.label == c).any(1) for c in range(1, 1 + CLASSES)], 1)
        assert bool((kinds & absent).any()) == expected


def test_equal_scores_go_to_the_background():
    found = reading.seeds(torch.zeros(2, 3, 7), torch.ones(2, 2), numbers.fbr(seed_background=0.0))
    assert not found.label.any()


def test_seeds_have_no_gradient_and_take_half_precision():
    given, labels = example(2, 35)
    found = reading.seeds(given.bfloat16().requires_grad_(), labels, numbers.fbr())
    assert not any(part.requires_grad for part in found)
    assert found.score.dtype == torch.float32


# Queries


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scores", ["cam", "softmax"])
@pytest.mark.parametrize(
    ("rank", "quantile"), [(0.4, 0.25), (0.6, 0.1), (0.0, 0.0), (0.99, 0.5), (0.5, 1.0)]
)
@pytest.mark.parametrize("blank", [True, False])
def test_queries_are_those_of_the_loop(size, scores, rank, quantile, blank):
    given, labels = example(*size)
    asks = {"unsure_rank": rank, "unsure_entropy": quantile, "blank_background": blank}
    asks = numbers.fbr(scores=scores, **asks)
    found = reading.seeds(given, labels, asks)
    asked = reading.unsure(found, asks)
    expected = twin.queries(*(part.numpy() for part in found), rank, quantile, blank)
    np.testing.assert_array_equal(asked.numpy(), expected)
    if size == (1, 1024) and (rank, quantile) == (0.4, 0.25):
        assert 0 < asked.sum() < (found.label > 0).sum()


def test_equal_scores_are_unsure_together():
    """Steps of 0.1: the threshold has many equals, none of which is above it."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(0, 11, (3, 4, 60), generator=generator) / 10
    found = Seeds(score, score.softmax(1), score.argmax(1))
    asked = reading.unsure(found, numbers.fbr(unsure_rank=0.4, unsure_entropy=0.0))
    expected = twin.queries(*(part.numpy() for part in found), 0.4, 0.0, True)
    np.testing.assert_array_equal(asked.numpy(), expected)
    assert asked.any()


@pytest.mark.parametrize("floor", [0.05, 0.0, 0.3])
def test_a_score_at_the_floor_takes_no_part(floor):
    """Neither does it rank: of 0.05 (the floor) and three above it, ρ = 0 leaves two sure."""
    score = torch.zeros(1, 2, 6)
    score[0, 1] = torch.tensor([0.0, floor, floor, floor + 0.1, floor + 0.2, floor + 0.3])
    score[0, 1, 0] = 0.01
    found = Seeds(score, torch.full((1, 2, 6), 0.5), torch.ones(1, 6, dtype=torch.int64))
    found.chance[0, :, 0] = torch.tensor([0.9, 0.1])  # of the least entropy, so that others ask
    asks = numbers.fbr(unsure_floor=floor, unsure_rank=0.0, unsure_entropy=0.0)
    asked = reading.unsure(found, asks)[0].tolist()
    if floor == 0.0:  # 0.01 ranks, and is the least of four
        assert asked == [False, True, True, False, False, False]
    else:
        assert asked == [False, True, True, True, False, False]


def test_a_class_whose_scores_all_say_nothing_is_unsure():
    score = torch.full((1, 2, 5), 0.01)
    score[0, 1] = torch.tensor([0.02, 0.03, 0.05, 0.04, 0.02])
    chance = torch.rand(1, 2, 5, generator=torch.Generator().manual_seed(0))
    found = Seeds(score, chance, score.argmax(1))
    asks = numbers.fbr(unsure_rank=0.4, unsure_entropy=0.0, blank_background=False)
    asked = reading.unsure(found, asks)
    expected = twin.queries(*(part.numpy() for part in found), 0.4, 0.0, False)
    np.testing.assert_array_equal(asked.numpy(), expected)
    assert asked.sum() == 4


# Prototypes and their graph


def found_with_pixels(images=3, positions=35):
    given, labels = example(images, positions)
    pixels = torch.randn(images, positions, 6, generator=torch.Generator().manual_seed(1)).relu()
    return reading.seeds(given, labels, numbers.fbr()), pixels


@pytest.mark.parametrize("own_seeds", [True, False])
def test_a_class_without_a_seed_in_an_image_takes_any_of_its_pixels(own_seeds):
    """Class 2 is never the strongest of the first image, so all its pixels there stand for it."""
    score = torch.tensor(
        [[[0.1, 0.1], [0.9, 0.3], [0.5, 0.2]], [[0.1, 0.1], [0.2, 0.1], [0.8, 0.7]]]
    )
    found = Seeds(score, score.softmax(1), score.argmax(1))
    pixels = torch.eye(4).view(2, 2, 4)
    centres = reading.prototypes(found, pixels, 4, own_seeds)
    if own_seeds:
        expected = twin.prototypes(score.numpy(), found.label.numpy(), pixels.numpy(), 4)
    else:
        weight = score[:, 1:].transpose(0, 1).flatten(1)
        expected = (weight / weight.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(centres.numpy(), expected, rtol=1e-6)
    assert (centres[1] > 0).all()


@pytest.mark.parametrize("size", SIZES[:4])
@pytest.mark.parametrize("top", [1, 8, 10_000])
def test_prototypes_are_weighted_means_of_the_best(size, top):
    found, pixels = found_with_pixels(*size)
    centres = reading.prototypes(found, pixels, top)
    score, _, label = (part.numpy() for part in found)
    expected = twin.prototypes(score, label, pixels.numpy().astype(np.float64), top)
    np.testing.assert_allclose(centres.numpy(), expected, atol=1e-5)


def test_prototypes_have_no_gradient_and_classes_that_no_image_shows_none():
    found, pixels = found_with_pixels(2)
    found.score[:, 2] = 0
    centres = reading.prototypes(found, pixels.requires_grad_(), 4)
    assert not centres.requires_grad
    assert not centres[1].any()
    assert centres[0].any()


@pytest.mark.parametrize(
    "present",
    [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]],
)
def test_the_graph_is_the_softmax_of_cosines(present):
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    unit = torch.nn.functional.normalize(centres, dim=1)
    chance = reading.graph(unit, torch.tensor(present) > 0, 0.5)
    expected = twin.graph(centres.double().numpy(), present, 0.5)
    np.testing.assert_allclose(chance.numpy(), expected, atol=1e-6)


# Draws


def test_pixels_are_drawn_by_the_graph_then_alike():
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 1, 2, 1, 4, 4, 0, 2, 2, 2, 4, 1, 2, 0])  # nothing of class 3
    chance = torch.tensor(
        [[0, 0.7, 0, 0.3], [0.5, 0, 0, 0.5], [0.2, 0.3, 0, 0.5], [0.1, 0.9, 0, 0]]
    )
    many = 20_000
    drawn = reading.draw_pixels(chance, labels, torch.rand(2, 4, many, generator=generator))
    assert drawn.shape == (4, many)
    counts = labels.bincount(minlength=5)
    for c in range(4):
        share = [chance[c, j - 1].item() / counts[j].item() if j else 0.0 for j in labels.tolist()]
        expected = many * np.array(share) / sum(share)
        seen = drawn[c].bincount(minlength=len(labels)).numpy()
        possible = expected > 0
        assert not seen[~possible].any()
        assert chisquare(seen[possible], expected[possible]).pvalue > 0.001


def test_the_least_and_the_largest_draw_are_inside():
    labels = torch.tensor([2, 0, 1, 2])
    chance = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    most = 1 - 2**-24
    ends = torch.tensor([[0.0, most, 0.0, most], [0.0, 0.0, most, most]])
    drawn = reading.draw_pixels(chance, labels, ends[:, None].expand(2, 2, 4))
    assert drawn.tolist() == [[0, 0, 3, 3], [2, 2, 2, 2]]


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 0, 1], [3, 3, 3]])
def test_without_another_class_indices_are_valid(labels):
    drawn = reading.draw_pixels(torch.zeros(3, 3), torch.tensor(labels), torch.rand(2, 3, 50))
    assert drawn.min() >= 0
    assert drawn.max() < 3
