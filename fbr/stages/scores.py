"""Scores told the same way everywhere: to the log, and to the tracking run."""

import math

from fbr import published
from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.files.tables import write_csv, write_json
from fbr.stages.job import Job, log


def named(rows: list[dict], classes: list[str]) -> list[dict]:
    """Per-class rows with the class's id and name in front."""
    return [
        {"id": id, "class": name, **row}
        for id, (name, row) in enumerate(zip(classes, rows, strict=True))
    ]


def unscored(
    job: Job, split: str, entries: list[Entry], kind: str = "masks", told: dict | None = None
) -> bool:
    """Whether no image of a split has ground truth; then the outputs say so, and hold no numbers.

    Where some images have it, all must: a score of a part would pass for one of the whole. told:
    what metrics.json says besides.
    """
    lacking = [entry.id for entry in entries if not job.data.has(kind, entry)]
    if lacking and len(lacking) < len(entries):
        raise Refusal(
            f"{job.data.folder / kind}: found {len(entries) - len(lacking)} of the {len(entries)} "
            f"images of split '{split}', not that of id '{lacking[0]}'; expected all or none: add "
            "them, or put what has none into a split of its own"
        )
    if entries and not lacking:
        return False
    for file in job.workspace.outputs(job.stage, job.axes).values():
        if file.suffix == ".csv":
            write_csv(file, [])
    said = {"ground_truth": False, "split": split, "images": len(entries), **(told or {})}
    write_json(job.out("metrics.json"), said)
    log.info(
        "%s: not scored: no image of split '%s' of %s has ground truth (%s/)",
        *(job.stage, split, job.axes["data"], kind),
    )
    return True


def announce(job: Job, metrics: dict, per_class: list[dict]) -> None:
    """One line for the log, and one for each number that was published of the same.

    Numbers and the per-class table go to the tracking run.
    """
    numbers = {
        k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    job.run.metrics({k: v for k, v in numbers.items() if math.isfinite(v)})
    job.run.table("per_class", per_class)
    said = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items()
    )
    for line in (said, *published.told(job.workspace, job.stage, job.axes, metrics)):
        log.info("%s: %s", job.stage, line)
