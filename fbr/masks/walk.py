"""Random walk that spreads class scores over affinities (PSA, CVPR 2018; IRN, CVPR 2019)."""

import math

import numpy as np
import torch

from fbr.masks.affinity import edge_to_affinity, path_index

TAIL = 1e-6  # what is left out of an expansion, relative to the scores


def random_walk(
    cam: np.ndarray,
    edge: np.ndarray | torch.Tensor,
    beta: float = 10,
    exp_times: int = 8,
    radius: int = 5,
) -> np.ndarray:
    """Return (cam * (1 - edge)) T^(2^exp_times), (k, h, w) float32.

    cam: (k, h, w), any k including 0. edge: (h, w) boundary map in 0..1.
    T is that of `spread`, with a_ij = 1 - the strongest boundary between two pixels.
    """
    edge = torch.as_tensor(edge, dtype=torch.float32)
    affinity = edge_to_affinity(edge[None, None], radius)[0].numpy()
    return spread(cam * (1 - edge.numpy()), affinity, beta, exp_times, radius)


def spread(
    scores: np.ndarray, affinity: np.ndarray, beta: float, exp_times: int, radius: int
) -> np.ndarray:
    """Return scores T^(2^exp_times), (k, h, w) float32.

    scores: (k, h, w), any k including 0. affinity: a of each pair in 0..1, (P, h, w) as
    `edge_to_affinity` and `feature_affinity` give it.
    T[i, j] = a_ij^beta / sum_i a_ij^beta over the pixels i closer than `radius` to j, a_jj = 1.
    Columns sum to one: with a row of scores on its left each step replaces a score by a weighted
    mean of its neighbourhood, the paper's S^-1 A with a column of scores on its right. So a map
    stays inside its initial range, and a constant one stays as it is.
    """
    start = scores.astype(np.float64).reshape(len(scores), math.prod(scores.shape[1:]))
    step = _Step(*diagonals(affinity**beta, radius), start.shape)
    # Single precision would lose four digits to the expansion, whose terms cancel.
    # T is similar to a symmetric matrix with eigenvalues in [-1, 1], where x^n is nearly a
    # polynomial of a degree near √n: 78 steps do the work of 256.
    weights = chebyshev(2**exp_times)
    before, now = start, step(start)
    total = weights[0] * before + (weights[1] * now if len(weights) > 1 else 0)
    for weight in weights[2:]:
        after = step(now)
        after *= 2
        after -= before
        before, now = now, after
        if weight:
            total += weight * now
    lowest, highest = start.min(1, keepdims=True), start.max(1, keepdims=True)
    return total.clip(lowest, highest).astype(np.float32).reshape(scores.shape)


class _Step:
    """A step of the walk for all maps at once, diagonal by diagonal."""

    def __init__(self, offsets: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> None:
        count = shape[1]
        self.diagonals = [(k, v[: count - k]) for k, v in zip(offsets, values, strict=True)]
        total = np.ones(count)
        for k, value in self.diagonals:
            total[k:] += value
            total[: count - k] += value
        self.norm = 1 / total
        self.room = np.empty(shape)

    def __call__(self, flow: np.ndarray) -> np.ndarray:
        out, count = flow.copy(), flow.shape[1]
        for k, value in self.diagonals:
            room = self.room[:, : count - k]
            out[:, k:] += np.multiply(value, flow[:, : count - k], out=room)
            out[:, : count - k] += np.multiply(value, flow[:, k:], out=room)
        out *= self.norm
        return out


def chebyshev(power: int) -> list[float]:
    """Weights of Chebyshev's polynomials T_0, T_1, … in x^power, up to where TAIL is left."""
    weights = [0.0] * (power + 1)
    for k in range(power // 2 + 1):
        weights[power - 2 * k] = math.comb(power, k) / 2 ** (power - 1)
    if power % 2 == 0:
        weights[0] /= 2
    left = 0.0
    while left + weights[-1] < TAIL:
        left += weights.pop()
    return weights


def diagonals(affinity: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Affinities (P, h, w) by distance in reading order: offsets (m,) > 0 and values (m, hw).

    values[m, j] is that of pixel j and pixel j + offsets[m].
    """
    count = math.prod(affinity.shape[1:])
    steps = np.array(path_index(radius).displacements) @ (affinity.shape[2], 1)
    affinity = affinity.reshape(len(steps), -1).copy()
    # In a map narrower than the neighbourhood, two displacements can share a diagonal, and one can
    # go back in reading order: then the pair is counted from its other pixel.
    for row in np.flatnonzero(steps < 0):
        affinity[row] = np.roll(affinity[row], steps[row])
    offsets, which = np.unique(abs(steps), return_inverse=True)
    values = np.zeros((len(offsets), count))
    np.add.at(values, which, affinity)
    inside = (offsets > 0) & (offsets < count)
    return offsets[inside], values[inside]
