"""What a change is worth: differences under the same seeds, with Student's confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and the bounds of its interval; one pair alone has none (NaN)."""

    pairs: int
    mean: float
    low: float
    high: float


def paired(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95
) -> Difference | None:
    """Compare two ways by their numbers under the same seeds, in the same order.

    The interval holds the true mean difference with this confidence if differences are normal.
    Returns None where there is no pair.
    """
    differences = np.subtract(ours, theirs)
    pairs = len(differences)
    if not pairs:
        return None
    mean = float(differences.mean())
    half = float("nan")
    if pairs > 1:
        quantile = stdtrit(pairs - 1, (1 + confidence) / 2)
        half = float(quantile * differences.std(ddof=1) / pairs**0.5)
    return Difference(pairs, mean, mean - half, mean + half)
