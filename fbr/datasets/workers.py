"""One function over many images, in processes of their own where there are enough of them."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fbr.errors import Refusal

Item = TypeVar("Item")
Made = TypeVar("Made")
FEW = 400  # images are done sooner than processes have started
CHUNK = 32  # images that a process is handed at once

Watched = Callable[[Iterable, str, int], Iterable]  # passes items on, and shows how many came


def unwatched(items: Iterable[Item], name: str, total: int) -> Iterable[Item]:
    """Pass items on and show nothing."""
    return items


def in_order(work: Callable[[Item], Made], items: list[Item], processes: int) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order; `work` and items must be picklable."""
    if processes == 1 or len(items) < FEW:
        yield from map(work, items)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        try:
            yield from pool.map(work, items, chunksize=CHUNK)
        except BrokenProcessPool:
            raise Refusal(
                f"one of {processes} processes died, most likely for want of memory; give prepare "
                "fewer threads in dvc.yaml and run it again"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
