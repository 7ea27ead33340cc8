"""Work that needs no network, over images and over processes, each of one thread."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from fbr.datasets.prepared import Entry
from fbr.errors import Refusal


def each(work: Callable[[Entry], None], todo: list[Entry], processes: int) -> Iterator[None]:
    """Run over all images; started fresh, for a fork would copy threads that hold locks."""
    context = multiprocessing.get_context("spawn")
    # A worker is one thread: as many matrix threads again would only be in each other's way.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(work, entry) for entry in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise Refusal(
                f"a worker died, most likely for want of memory; {processes} ran at once: "
                "give the stage fewer threads in dvc.yaml and rerun, it goes on where it stopped"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
