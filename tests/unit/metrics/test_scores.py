"""All scores of label maps at once: each is that of its own module."""

import math

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.metrics.bootstrap import interval
from fbr.metrics.scores import Scores
from tests.reference import semantic as reference
from tests.unit.metrics.test_boundary import blocks

SIZES = [(1, 1), (23, 31), (40, 9)]
PAIRS = [(blocks(size, seed=s), blocks(size, seed=s + 9)) for s, size in enumerate(SIZES)]


def scored(pairs, classes=4):
    scores = Scores(classes)
    for pred, target in pairs:
        scores.update(pred, target)
    return scores


def test_every_number_is_the_loops():
    scores = scored(PAIRS)
    counts = [reference.confusion(*pair, 4) for pair in PAIRS]
    rows = reference.rates(np.sum(counts, axis=0).tolist())
    found = scores.metrics()
    assert found["miou"] == pytest.approx(reference.mean([row["iou"] for row in rows]))
    for name in ("fp", "fn"):
        assert found[name] == pytest.approx(reference.mean([row[name] for row in rows[1:]]))
    near = np.sum([reference.boundary_counts(*pair, 4) for pair in PAIRS], axis=0)
    exact = near[0] / (near[1] + near[2] - near[0])
    assert found["boundary_iou"] == pytest.approx(exact.mean())
    assert [row["boundary_iou"] for row in scores.per_class()] == pytest.approx(exact)
    assert (found["miou_low"], found["miou_high"]) == interval(scores.images())
    assert found["miou_low"] <= found["miou"] <= found["miou_high"]


def test_images_keep_three_numbers_a_class_that_add_up():
    scores = scored(PAIRS)
    counts = scores.confusion.counts
    common, predicted, true = scores.images().sum(axis=0)
    assert common.tolist() == counts.diagonal().tolist()
    assert predicted.tolist() == counts[:, :-1].sum(axis=0).tolist()
    assert true.tolist() == counts.sum(axis=1).tolist()
    assert scores.images().nbytes == len(PAIRS) * 3 * 4 * 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pairs", [[], [(blocks((5, 9)), np.full((5, 9), 255, np.uint8))]])
def test_of_nothing_every_score_is_nan(pairs):
    assert all(map(math.isnan, scored(pairs).metrics().values()))


def test_a_refused_image_is_not_counted():
    scores = Scores(4)
    with pytest.raises(Refusal, match="image a: prediction"):
        scores.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), "a")
    assert not len(scores.images())
    assert not scores.boundaries.any()
