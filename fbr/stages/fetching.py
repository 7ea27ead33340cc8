"""Bring the archives of a dataset: fetched once, unpacked once, each with its progress shown."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fbr.datasets import SOURCES
from fbr.files.archives import half, unpack
from fbr.files.download import fetch
from fbr.params import Archive
from fbr.stages.job import Job

log = logging.getLogger("fbr")
QUIET = 10.0  # seconds between two lines of a log


def fetch_missing(job: Job) -> None:
    """Fetch and unpack what the source lacks and params.yaml has an archive of.

    Archives lie in downloads/, and what they hold in downloads/<source>/. An archive that was
    unpacked may be deleted; one that a killed run unpacked in part comes first.
    """
    source, root = job.numbers, job.workspace.root
    archives: dict[str, Archive] = getattr(source, "archives", {})
    folder = job.workspace.downloads / source.source
    halves = [
        a for a in archives.values() if half(job.workspace.downloads / a.file, folder).exists()
    ]
    for archive in halves:
        bring(archive, job.workspace.downloads, folder)
    for key, line in SOURCES[source.source].missing(source, root).items():
        if key in archives:
            log.info("prepare: not there: %s", line)
            bring(archives[key], job.workspace.downloads, folder)


def bring(archive: Archive, downloads: Path, folder: Path) -> None:
    """One archive, from the net to its files."""
    file = downloads / archive.file
    with _shown(f"fetching {file.name}", 1e6, "MB") as told:
        fetch(archive.urls, file, archive.md5, told)
    with _shown(f"unpacking {file.name}", 1, "files") as told:
        odd = unpack(file, folder, lambda files: told(files, None))
    if odd:
        log.warning("%s: left out what is no plain file: %s", file.name, ", ".join(odd[:3]))


@contextmanager
def _shown(what: str, unit: float, name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function that takes what is done and what there is in all, where that is known."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("{task.description}", BarColumn(), TextColumn("{task.completed:.0f} " + name))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(
                task, completed=done / unit, total=total and total / unit
            )
        return
    said = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal said
        if time.monotonic() - said > QUIET:
            said = time.monotonic()
            log.info(
                "%s: %.0f%s %s", what, done / unit, f" of {total / unit:.0f}" if total else "", name
            )

    log.info("%s", what)
    yield tell
