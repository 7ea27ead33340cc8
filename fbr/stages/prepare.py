"""prepare: bring a dataset into the contract's formats, fetched first where it is not there."""

from collections import Counter
from pathlib import Path

from fbr.datasets import SOURCES
from fbr.datasets.prepared import Built, Prepared, describe, write_index
from fbr.errors import Refusal
from fbr.files.atomic import PartialFolder
from fbr.files.resume import fingerprint
from fbr.files.tables import write_json
from fbr.stages.fetching import fetch_missing
from fbr.stages.images import counted
from fbr.stages.job import Job, log

FOLDERS = ("images", "masks", "instances", "saliency", "companions")


def run(job: Job) -> None:
    """Build the folders beside their final places, then put all of them there."""
    source, root = job.numbers, job.workspace.root
    module = SOURCES[source.source]
    fetch_missing(job)
    inputs = [] if module.missing(source, root) else module.inputs(source, root)
    key = fingerprint(job.key(), [_stamp(file) for file in inputs])
    folders = {name: PartialFolder(job.out(name), key) for name in FOLDERS}
    built = module.build(source, root, folders, job.threads, counted)
    counts = checked_counts(built, getattr(source, "counts", {}), job.section)
    for folder in folders.values():
        folder.finish()
    write_index(job.out("index").parent, built.entries, built.names)
    write_json(job.out("found.json"), summary(built, counts))
    for what, number in built.found.items():
        log.info("prepare: %s: %s", what, number)
    log.info("prepared %s: %s", job.axes["data"], describe(Prepared(job.out("index").parent)))


def _stamp(file: Path) -> tuple[str, int, int]:
    """Tell a file of hundreds of megabytes apart without reading it."""
    return file.name, file.stat().st_size, file.stat().st_mtime_ns


def checked_counts(built: Built, expected: dict[str, int], section: str) -> dict[str, int]:
    """Images of each split; another number than the parameters expect is refused.

    A test split may be absent as a whole: only `submit` needs it.
    """
    found = Counter(split for entry in built.entries for split in entry.splits)
    for split, number in expected.items():
        if found[split] != number and (found[split] or split != "test"):
            raise Refusal(
                f"params.yaml: {section}.counts.{split}: found {found[split]} images, expected "
                f"{number}; complete the data, or change the number if this is on purpose"
            )
    return dict(sorted(found.items()))


def summary(built: Built, counts: dict[str, int]) -> dict:
    """What found.json says: splits, classes, what was odd, and who shows no class at all."""
    shown = Counter(built.names[c] for entry in built.entries for c in entry.classes)
    labelled = [entry for entry in built.entries if entry.splits != ("test",)]
    return {
        "images": len(built.entries),
        "splits": counts,
        "images of each class": {name: shown[name] for name in built.names[1:]},
        "found": built.found,
        "without a label": sorted(entry.id for entry in labelled if not entry.classes),
    }
