"""Batches for training: decoded once, kept as uint8, prepared by threads ahead of the network.

Everything random is drawn from (seed, position in the data order), never from a running state. So
the stream does not depend on threads or processes, and resuming at step n is starting at step n.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

Sample = dict[str, np.ndarray]
Batch = dict[str, torch.Tensor]  # `image` is (B, H, W, 3) uint8 until it is on the device
CACHE_BYTES = 1 << 30


class Decoded:
    """Arrays by index, read at most once while they fit into memory."""

    def __init__(self, read: Callable[[int], Sample], budget: int = CACHE_BYTES) -> None:
        self._read = read
        self._left = budget
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        sample = self._kept.get(index)
        if sample is None:
            sample = self._read(index)
            size = sum(a.nbytes for a in sample.values())
            if size <= self._left:
                self._left -= size
                self._kept[index] = sample
        return sample


@dataclass(frozen=True)
class Order:
    """The endless data order: one permutation after another, drawn from the seed."""

    images: int
    seed: int

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.images)
        return int(_permutation(self.images, self.seed, epoch)[place])


@lru_cache(maxsize=8)
def _permutation(images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(images)


class Loader:
    """The batches of one process, in order, `ahead` of them prepared by threads.

    sample: (index, rng) → arrays of one image; all samples of a name have one shape.
    positions: step → the positions in `order` that this process takes, in order.
    """

    def __init__(
        self,
        sample: Callable[[int, np.random.Generator], Sample],
        order: Order,
        positions: Callable[[int], range],
        threads: int,
        ahead: int = 4,
    ) -> None:
        self._sample, self._order, self._positions = sample, order, positions
        self._threads, self._ahead = threads, ahead

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of these steps."""
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[list[Future]] = deque()
            step = start
            try:
                while step < stop or waiting:
                    while step < stop and len(waiting) < self._ahead:
                        positions = self._positions(step)
                        waiting.append([pool.submit(self._one, p) for p in positions])
                        step += 1
                    yield _collate([f.result() for f in waiting.popleft()])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, position: int) -> Sample:
        rng = np.random.default_rng([self._order.seed, position])
        return self._sample(self._order[position], rng)


def _collate(samples: list[Sample]) -> Batch:
    return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0]}
