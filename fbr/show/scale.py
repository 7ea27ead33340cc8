"""Axes of charts: ranges that are never empty, round ticks, and places on the paper."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight map from the range low..high to start..end on the paper."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def span(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of finite values, never empty; zero joins a positive range that is near."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) / 2 or 0.5
        return low - room, high + room
    return (0.0, high) if 0 < low < 0.4 * high else (low, high)


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose the range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # Multiples of 0.1 are not exact; twelve digits below the step are enough to hide it.
    digits = 12 - math.floor(math.log10(step))
    return [round(number * step, digits) for number in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Write ticks with the decimals that their step needs; thousands as k, tiny ones as powers."""
    step = min((after - before for before, after in itertools.pairwise(values)), default=1.0)
    if step >= 1000:
        return [f"{value / 1000:g}k" if value else "0" for value in values]
    if step < 0.001:
        return [f"{value:g}" for value in values]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:.{digits}f}" for value in values]
