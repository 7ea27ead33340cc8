"""mask_eval: mIoU of pseudo masks."""

from pathlib import Path

from fbr.datasets.prepared import Entry
from fbr.files import pictures
from fbr.files.tables import write_csv, write_json
from fbr.metrics.scores import Scores
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored


def run(job: Job) -> None:
    """Score the masks as the segmentation network will see them."""
    entries = job.data.split(job.numbers.split)

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(_folder(job) / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, job.axes["mask"])

    if not unscored(job, job.numbers.split, entries):
        score(job, entries)
    track_overlays(job, entries, tiles)


def score(job: Job, entries: list[Entry]) -> None:
    """Write the classes and the numbers of one split, and the mIoU of another."""
    numbers = job.numbers
    scores = scored(job, entries)
    per_class = named(scores.per_class(), job.data.classes)
    write_csv(job.out("per_class"), per_class)
    block = job.params.mask[job.axes["mask"]][job.axes["data"]]
    metrics = {
        **scores.metrics(),
        "split": numbers.split,
        "images": len(entries),
        "threshold": block.threshold,
        "threshold_choice": "fixed",
        # A sweep needs scores. Of these masks there are none, or cam_eval has swept them already.
        "oracle": "that of cam_eval" if block.cam_cut else "not swept: masks keep no scores",
        "crf": block.crf_refine is not None,
    }
    if numbers.also is not None:
        known = [e for e in job.data.split(numbers.also) if job.data.has("masks", e)]
        if not known:
            log.info("mask_eval: split %s has no ground truth, so no score", numbers.also)
        else:
            metrics[f"miou_{numbers.also}"] = scored(job, known).confusion.miou()
            metrics[f"images_{numbers.also}"] = len(known)
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)


def scored(job: Job, entries: list[Entry]) -> Scores:
    """Compare the masks of these images with the truth."""
    folder = _folder(job)
    scores = Scores(len(job.data.classes))

    def read(entry: Entry) -> tuple:
        return job.data.ids(folder / f"{entry.id}.png", entry), job.data.mask(entry)

    for entry, (mask, target) in counted(read_ahead(entries, read), "mask_eval", len(entries)):
        scores.update(mask, target, entry.id)
    return scores


def _folder(job: Job) -> Path:
    # Any stage that makes masks writes them to the same place under its own name.
    return job.path("irn_infer", "masks")
