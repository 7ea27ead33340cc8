"""Intervals over images against images drawn one by one."""

import math

import numpy as np
import pytest

from fbr.metrics import bootstrap
from fbr.metrics.bootstrap import interval
from tests.reference import semantic as reference


def counts(images, classes=3, seed=0):
    """Counts (n, 3, C) of images, some without a class."""
    random = np.random.default_rng(seed)
    common = random.integers(0, 50, (images, classes))
    more = random.integers(0, 30, (2, images, classes))
    drawn = np.stack([common, common + more[0], common + more[1]], axis=1)
    return drawn * (random.random((images, 1, classes)) < 0.7)


@pytest.mark.parametrize("images", [1, 2, 9])
@pytest.mark.parametrize("together", [1, 30, 1 << 24])
def test_bounds_are_those_of_images_drawn_one_by_one(monkeypatch, images, together):
    monkeypatch.setattr(bootstrap, "TOGETHER", together)
    given = counts(images)
    draws = np.random.default_rng(5).integers(images, size=(40, images))
    means = [m for m in reference.bootstrap(given, draws) if not math.isnan(m)]
    exact = np.quantile(means, [0.05, 0.95])
    assert interval(given, 40, 0.9, seed=5) == pytest.approx(tuple(exact))


def test_the_interval_holds_the_score_and_narrows_with_images():
    few, many = counts(10), counts(10).repeat(20, axis=0)
    score = reference.bootstrap(few, [range(10)])[0]
    widths = []
    for given in (few, many):
        low, high = interval(given)
        assert low < score < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_the_same_images_give_the_same_bounds():
    assert interval(counts(20)) == interval(counts(20))
    assert interval(counts(20)) != interval(counts(20), seed=1)


def test_images_that_are_all_alike_leave_no_doubt():
    low, high = interval(counts(1).repeat(7, axis=0))
    assert low == pytest.approx(high)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [0, 3])
def test_of_nothing_there_is_no_interval(images):
    assert all(map(math.isnan, interval(np.zeros((images, 3, 4), np.uint32))))
