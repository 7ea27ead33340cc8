"""seg_eval: predict the validation images and score them."""

from fbr.datasets.prepared import Entry
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.files.tables import write_csv, write_json
from fbr.metrics.scores import Scores
from fbr.params import Way, Windows
from fbr.stages.given import described
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored
from fbr.stages.segmenting import predict


def run(job: Job) -> None:
    """Predict, then one pass over predictions and ground truth."""
    numbers = job.numbers
    model = job.path("seg_train", "model")
    entries = job.data.split(numbers.split)
    key = job.key(model, job.path("prepare", "index"))
    folder = PartialFolder(job.out("pred"), key)
    # Other ways are scored, not kept.
    also = {PartialFolder(job.state / f"pred_{n}", key): way for n, way in numbers.also.items()}
    predict("seg_eval", model, job.data, entries, folder, numbers, job.threads, also)
    if not unscored(job, numbers.split, entries, told=told(numbers, numbers.windows)):
        score(job, entries, folder, also)
    folder.finish()

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(job.out("pred") / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, "prediction")

    track_overlays(job, entries, tiles)


def score(
    job: Job, entries: list[Entry], folder: PartialFolder, also: dict[PartialFolder, Way]
) -> None:
    """Write the classes, the confusion and the numbers of the predictions, made in every way."""
    numbers, classes = job.numbers, job.data.classes
    scores = scored(job, entries, folder)
    per_class = named(scores.per_class(), classes)
    write_csv(job.out("per_class"), per_class)
    counts = scores.confusion.counts[:, : len(classes)].tolist()
    write_csv(
        job.out("confusion"),
        (
            {"target": name, **dict(zip(classes, row, strict=True))}
            for name, row in zip(classes, counts, strict=True)
        ),
    )
    metrics = {
        **scores.metrics(),
        "split": numbers.split,
        "images": len(entries),
        **told(numbers, numbers.windows),
        # Other first weights are the most common cause of other scores.
        "first_weights": described(job.path("seg_train", "model")).get("first_weights"),
    }
    if also:
        metrics["also"] = {
            name: scored(job, entries, other).metrics() | told(way, numbers.windows)
            for name, (other, way) in zip(numbers.also, also.items(), strict=True)
        }
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)


def scored(job: Job, entries: list[Entry], folder: PartialFolder) -> Scores:
    """Score the predictions in a folder, one image in memory at a time."""
    scores = Scores(len(job.data.classes))

    def read(entry: Entry) -> tuple:
        return pictures.read_mask(folder / f"{entry.id}.png"), job.data.mask(entry)

    for entry, (mask, target) in counted(read_ahead(entries, read), "scoring", len(entries)):
        scores.update(mask, target, entry.id)
    return scores


def told(way: Way, windows: Windows | None) -> dict:
    """What a number is on, besides its images: every constant of the way to predict."""
    return {
        "scales": way.scales,
        "flip": way.flip,
        "crf": way.crf and way.crf.model_dump(),
        "windows": windows and windows.model_dump(),
    }
