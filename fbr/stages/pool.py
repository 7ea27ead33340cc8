"""Work that needs no network, over images and over processes, each of one thread."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from fbr.datasets.workers import pooled

Item = TypeVar("Item")


def each(work: Callable[[Item], None], todo: list[Item], processes: int) -> Iterator[None]:
    """Run over all images; one that takes long lets the others go on."""
    return pooled(work, todo, processes, 8 * processes, "the stage")


def streamed(work: Callable[[Item], None], items: Iterable[Item], processes: int) -> Iterator[None]:
    """Run over items while more of them are made, no more in memory than keep all busy."""
    return pooled(work, items, processes, processes, "the stage")
