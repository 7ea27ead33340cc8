"""One function over many images, in processes of their own where there are enough of them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
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
    with single_threaded(processes, "prepare") as pool:
        yield from pool.map(work, items, chunksize=CHUNK)


@contextmanager
def single_threaded(processes: int, stage: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each, started fresh; what is left is dropped at the end."""
    # More matrix threads would only be in each other's way.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            try:
                _start_deaf(pool, processes)
                yield pool
            except BrokenProcessPool:
                raise Refusal(
                    f"a worker died, most likely for want of memory; {processes} ran at once: give "
                    f"{stage} fewer threads in dvc.yaml and rerun, it goes on where it stopped"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_deaf(pool: ProcessPoolExecutor, processes: int) -> None:
    """Start the processes so that Ctrl-C reaches this one alone, which tells them to end.

    What they import before any code of ours runs would end in a traceback, and a pool that is
    interrupted between a process and its place in the list of them waits for ever.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        for _ in range(processes):
            pool.submit(int)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
