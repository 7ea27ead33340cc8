"""mask_eval: mIoU of pseudo masks."""

from pathlib import Path

from fbr.datasets.prepared import Entry
from fbr.files import pictures
from fbr.files.tables import write_csv, write_json
from fbr.metrics.scores import Scores
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored


def run(job: Job) -> None:
    """Score the masks as the segmentation network will see them."""
    split = job.numbers.split
    # Any stage that makes masks writes them to the same place under its own name.
    folder = job.path("irn_infer", "masks")
    entries = job.data.split(split)

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(folder / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, job.axes["mask"])

    if not unscored(job, split, entries):
        score(job, folder, entries)
    track_overlays(job, entries, tiles)


def score(job: Job, folder: Path, entries: list[Entry]) -> None:
    """One pass over masks and ground truth."""
    scores = Scores(len(job.data.classes))

    def read(entry: Entry) -> tuple:
        return job.data.ids(folder / f"{entry.id}.png", entry), job.data.mask(entry)

    for entry, (mask, target) in counted(read_ahead(entries, read), "mask_eval", len(entries)):
        scores.update(mask, target, entry.id)
    per_class = named(scores.per_class(), job.data.classes)
    write_csv(job.out("per_class"), per_class)
    block = job.params.mask[job.axes["mask"]][job.axes["data"]]
    metrics = {
        **scores.metrics(),
        "split": job.numbers.split,
        "images": len(entries),
        "threshold": block.threshold,
        "threshold_choice": "fixed",
        "crf": block.crf_refine is not None,
    }
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)
