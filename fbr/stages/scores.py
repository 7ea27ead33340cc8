"""Scores told the same way everywhere: to the log, and to the tracking run."""

import math

from fbr.stages.job import Job, log


def named(rows: list[dict], classes: list[str]) -> list[dict]:
    """Per-class rows with the class's id and name in front."""
    return [
        {"id": id, "class": name, **row}
        for id, (name, row) in enumerate(zip(classes, rows, strict=True))
    ]


def announce(job: Job, metrics: dict, per_class: list[dict]) -> None:
    """One line for the log; numbers and the per-class table for the tracking run."""
    numbers = {
        k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    job.run.metrics({k: v for k, v in numbers.items() if math.isfinite(v)})
    job.run.table("per_class", per_class)
    said = ", ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items()
    )
    log.info("%s: %s", job.stage, said)
