"""Paired differences: as written out, as printed in tables, and nothing claimed of one pair."""

import math

import numpy as np
import pytest

from fbr.metrics.paired import paired
from tests.reference import paired as reference


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
def test_as_written_out(count):
    ours, theirs = np.random.default_rng(count).normal(40, 2, (2, count)).tolist()
    found = paired(ours, theirs)
    wanted = reference.interval(ours, theirs)
    assert (found.mean, found.low, found.high) == pytest.approx(wanted, rel=1e-4)
    assert found.pairs == count


def test_two_pairs_by_hand():
    found = paired([43.0, 49.0], [40.0, 44.0])
    assert (found.mean, found.low, found.high) == pytest.approx((4, 4 - 12.7062, 4 + 12.7062))


def test_one_pair_has_no_interval_and_none_has_nothing():
    alone = paired([3.0], [1.0])
    assert (alone.pairs, alone.mean) == (1, 2.0)
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
    assert paired([], []) is None


def test_equal_numbers_differ_by_nothing():
    found = paired([1.0, 5.0, 9.0], [1.0, 5.0, 9.0])
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_what_seeds_share_does_not_count():
    shared = np.array([0.0, 100.0, -50.0])
    found = paired(shared + np.arange(1, 4), shared)
    assert found == paired([1, 2, 3], [0, 0, 0])
    assert paired([0, 0, 0], [1, 2, 3]).high == pytest.approx(-found.low)


def test_more_confidence_is_a_wider_interval():
    wide, narrow = (paired([1, 2, 4], [0, 0, 0], c) for c in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.mean == wide.mean
    assert paired([1, 2, 4], [0, 0, 0], 0.99).high - wide.mean == pytest.approx(
        9.9248 * (7 / 3) ** 0.5 / 3**0.5, rel=1e-4
    )


def test_as_many_of_each():
    with pytest.raises(ValueError, match="broadcast"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])
