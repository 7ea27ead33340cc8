"""Work that needs no network, over images and over processes, each of one thread."""

from collections.abc import Callable, Iterator
from concurrent.futures import as_completed

from fbr.datasets.prepared import Entry
from fbr.datasets.workers import single_threaded


def each(work: Callable[[Entry], None], todo: list[Entry], processes: int) -> Iterator[None]:
    """Run over all images, in any order."""
    with single_threaded(processes, "the stage") as pool:
        for future in as_completed([pool.submit(work, entry) for entry in todo]):
            yield future.result()
