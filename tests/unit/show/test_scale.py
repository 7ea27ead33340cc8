"""Ticks are round, enclose their range, and are written with the digits that tell them apart."""

import itertools

import pytest

from fbr.show.scale import Scale, span, tick_labels, ticks

RANGES = [
    (0, 1),
    (0, 100),
    (-3, 7),
    (1e-5, 3e-5),
    (0, 20000),
    (0.37, 0.41),
    (1e6, 1e6 + 3),
    (-9, -2),
]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_enclose_the_range_in_equal_steps(low, high):
    values = ticks(low, high)
    steps = [after - before for before, after in itertools.pairwise(values)]
    assert values[0] <= low
    assert values[-1] >= high
    assert 3 <= len(values) <= 8
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:.6e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_tick_labels_are_distinct_and_say_their_value(low, high):
    values = ticks(low, high)
    labels = tick_labels(values)
    assert len(set(labels)) == len(labels)
    read = [float(label.rstrip("k")) * (1000 if label.endswith("k") else 1) for label in labels]
    assert read == pytest.approx(values)


def test_tick_labels_share_their_decimals():
    assert tick_labels([0, 0.5, 1]) == ["0.0", "0.5", "1.0"]
    assert tick_labels([0, 5000, 10000]) == ["0", "5k", "10k"]
    assert tick_labels([3]) == ["3"]


@pytest.mark.parametrize("values", [[], [0.0], [5.0], [-2.0, -2.0], [1.0, 9.0]])
def test_span_is_never_empty_and_holds_all(values):
    low, high = span(values)
    assert low < high
    assert all(low <= value <= high for value in values)


def test_span_starts_at_zero_only_when_zero_is_near():
    assert span([1, 9]) == (0, 9)
    assert span([8, 9]) == (8, 9)
    assert span([-1, 9]) == (-1, 9)


def test_scale_maps_ends_to_ends():
    down = Scale(10, 20, 200, 100)
    assert [down(10), down(15), down(20)] == [200, 150, 100]
