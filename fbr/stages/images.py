"""One pass over images: decoded ahead by a thread, what is done already skipped, progress shown."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fbr.datasets.prepared import Entry, Prepared
from fbr.files import maps

if TYPE_CHECKING:
    import torch

log = logging.getLogger("fbr")
Item = TypeVar("Item")
Read = TypeVar("Read")
AHEAD = 8
# Of images that are looked at together: what a CPU's cache holds the maps of, and what fills a GPU.
PIXELS = {"cpu": 1 << 18, "cuda": 1 << 22}


def alike(entries: Iterable[Entry], device: "torch.device") -> list[list[Entry]]:
    """Entries in groups of one size, a large image alone; always the same groups.

    So what is found of an image cannot depend on which of its neighbours were done before.
    """
    sizes: dict[tuple[int, int], list[Entry]] = {}
    for entry in entries:
        sizes.setdefault((entry.height, entry.width), []).append(entry)
    groups = []
    for (height, width), same in sizes.items():
        count = max(1, PIXELS[device.type] // (height * width))
        groups += [same[i : i + count] for i in range(0, len(same), count)]
    return groups


def with_maps(data: Prepared, cams: Path, group: list[Entry]) -> tuple[np.ndarray, list[maps.Maps]]:
    """Images of one size (n, H, W, 3) and the maps of each."""
    images = np.stack([data.image(entry) for entry in group])
    return images, [read_maps(cams, entry) for entry in group]


def read_maps(folder: Path, entry: Entry) -> maps.Maps:
    """The maps of an image, or behind its mask, which must be of its size."""
    return maps.read(folder / f"{entry.id}.npz", (entry.height, entry.width))


def read_ahead(
    entries: Iterable[Item], read: Callable[[Item], Read]
) -> Iterator[tuple[Item, Read]]:
    """Yield entries with what `read` makes of them, read by a thread while the caller works."""
    with ThreadPoolExecutor(1) as pool:
        queue = iter(entries)
        waiting = [(entry, pool.submit(read, entry)) for entry in islice(queue, AHEAD)]
        while waiting:
            entry, future = waiting.pop(0)
            waiting += [(e, pool.submit(read, e)) for e in islice(queue, 1)]
            yield entry, future.result()


def counted(items: Iterable[Item], name: str, total: int) -> Iterator[Item]:
    """Pass items on, with a bar on a terminal or a line every ten seconds in a log."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, name, total=total, console=Console(stderr=True))
        return
    began = said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said > 10 or number == total:
            said = now
            log.info("%s %d/%d, %.1f a second", name, number, total, number / (now - began))
