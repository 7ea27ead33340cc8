"""Work that needs no network, over images and over processes, each of one thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from typing import TypeVar

from fbr.datasets.workers import single_threaded

Item = TypeVar("Item")


def each(work: Callable[[Item], None], todo: list[Item], processes: int) -> Iterator[None]:
    """Run over all images, in any order."""
    if not todo:  # processes would start for nothing
        return
    with single_threaded(processes, "the stage") as pool:
        for future in as_completed([pool.submit(work, item) for item in todo]):
            yield future.result()


def streamed(work: Callable[[Item], None], items: Iterable[Item], processes: int) -> Iterator[None]:
    """Run over items while more of them are made, no more in memory than keep all busy."""
    with single_threaded(processes, "the stage") as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > processes:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
