"""mask_eval: mIoU of pseudo masks."""

from fbr.datasets.prepared import Entry, sized
from fbr.files import pictures
from fbr.files.tables import write_csv, write_json
from fbr.metrics.semantic import Confusion
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job
from fbr.stages.scores import announce, named


def run(job: Job) -> None:
    """Score the masks as the segmentation network will see them."""
    split = job.numbers.split
    # Any stage that makes masks writes them to the same place under its own name.
    folder = job.path("irn_infer", "masks")
    entries = job.data.split(split)
    confusion = Confusion(len(job.data.classes))

    def read(entry: Entry) -> tuple:
        path = folder / f"{entry.id}.png"
        return sized(pictures.read_mask(path), entry, path), job.data.mask(entry)

    for entry, (mask, target) in counted(read_ahead(entries, read), "mask_eval", len(entries)):
        confusion.update(mask, target, entry.id)
    per_class = named(confusion.per_class(), job.data.classes)
    write_csv(job.out("per_class"), per_class)
    metrics = {
        "miou": confusion.miou(),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "split": split,
        "images": len(entries),
        "threshold_choice": "fixed",
    }
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)
