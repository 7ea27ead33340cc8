"""seg_eval: predict the validation images and score them."""

from fbr.datasets.prepared import Entry
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.files.tables import write_csv, write_json
from fbr.metrics.semantic import Confusion
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored
from fbr.stages.segmenting import predict


def run(job: Job) -> None:
    """Predict what is not predicted yet, then score it."""
    numbers = job.numbers
    model = job.path("seg_train", "model")
    entries = job.data.split(numbers.split)
    folder = PartialFolder(job.out("pred"), job.key(model, job.path("prepare", "index")))
    predict("seg_eval", model, job.data, entries, folder, numbers, job.threads)
    if not unscored(job, numbers.split, entries):
        score(job, folder, entries)
    folder.finish()

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(job.out("pred") / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, "prediction")

    track_overlays(job, entries, tiles)


def score(job: Job, folder: PartialFolder, entries: list[Entry]) -> None:
    """One pass over predictions and ground truth."""
    numbers, classes = job.numbers, job.data.classes
    confusion = Confusion(len(classes))

    def read(entry: Entry) -> tuple:
        return pictures.read_mask(folder / f"{entry.id}.png"), job.data.mask(entry)

    for entry, (mask, target) in counted(read_ahead(entries, read), "scoring", len(entries)):
        confusion.update(mask, target, entry.id)
    per_class = named(confusion.per_class(), classes)
    write_csv(job.out("per_class"), per_class)
    counts = confusion.counts[:, : len(classes)].tolist()
    write_csv(
        job.out("confusion"),
        (
            {"target": name, **dict(zip(classes, row, strict=True))}
            for name, row in zip(classes, counts, strict=True)
        ),
    )
    metrics = {
        "miou": confusion.miou(),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "split": numbers.split,
        "images": len(entries),
        "scales": numbers.scales,
        "flip": numbers.flip,
        "crf": numbers.crf is not None,
    }
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)
