"""One function over many images, in processes of their own where there are enough of them."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, TypeVar

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
    rest = iter(items)
    chunks = iter(lambda: list(islice(rest, CHUNK)), [])
    for made in pooled(_Each(work), chunks, processes, 4 * processes, "prepare"):
        yield from made


class _Each:
    """A function over all items of a chunk."""

    def __init__(self, work: Callable[[Item], Made]) -> None:
        self.work = work

    def __call__(self, chunk: list[Item]) -> list[Made]:
        return [self.work(item) for item in chunk]


def pooled(
    work: Callable[[Item], Made], items: Iterable[Item], processes: int, ahead: int, stage: str
) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order; of items, `ahead` and one are under way."""
    with _single_threaded(processes, stage) as submit:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _single_threaded(processes: int, stage: str) -> Iterator[Callable[..., Future]]:
    """How to submit to processes of one thread each, started fresh; what is left is dropped."""
    # More matrix threads would only be in each other's way.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
    try:
        with ProcessPoolExecutor(processes, context, initializer=_end_with_parent) as pool:

            def submit(*call: Any) -> Future:
                with _uninterrupted():
                    return pool.submit(*call)

            try:
                yield submit
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


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait: amid a submission it would leave a lock held, and the pool in wait for it.

    Processes that are started here are deaf to it for good, and show no tracebacks: the one that
    started them tells them to end.
    """
    came, handler = [], None
    if threading.current_thread() is threading.main_thread():
        # A thread of some library may take the signal in spite of the mask, which is this one's.
        handler = signal.signal(signal.SIGINT, lambda *how: came.append(how))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(*came[0])


def _end_with_parent() -> None:
    """Watch, in a worker, for the end of its parent, which may be killed without a word."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
