"""wsis_eval: detect the instances of the validation images and score them as COCO does."""

import torch

from fbr.datasets.prepared import Entry
from fbr.files.atomic import PartialFolder
from fbr.files.tables import read_json, write_json
from fbr.metrics.instance import average_precision
from fbr.stages import networks
from fbr.stages.detecting import detect
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, instance_tiles, track_overlays
from fbr.stages.scores import announce, unscored
from fbr.stages.truth import true_instances
from fbr.train.processes import device


def run(job: Job) -> None:
    """Detect image by image, going on where an earlier run stopped; then AP over all of them."""
    numbers = job.numbers
    torch.set_num_threads(job.threads)
    model = job.path("wsis_train", "model")
    network, _ = networks.load(model, device(), score=numbers.score, detections=numbers.detections)
    entries = job.data.split(numbers.split)
    folder = PartialFolder(job.state / "detections", job.key(model, job.path("prepare", "index")))
    todo = [e for e in entries if not folder.has(f"{e.id}.json")]
    log.info("wsis_eval: %d of %d images to do", len(todo), len(entries))
    for entry, image in counted(read_ahead(todo, job.data.image), "wsis_eval", len(todo)):
        write_json(folder / f"{entry.id}.json", detect(network, entry.id, image))
    detections = [r for e in entries for r in read_json(folder / f"{e.id}.json")]
    write_json(job.out("detections.json"), detections)
    if not unscored(job, numbers.split, entries, "instances"):
        score(job, entries, detections)
    found = {e.id: [] for e in entries}
    for record in detections:
        found[record["image_id"]].append(record)

    def tiles(entry: Entry) -> Tiles:
        return instance_tiles(job.data, entry, found[entry.id])

    track_overlays(job, entries, tiles)


def score(job: Job, entries: list[Entry], detections: list[dict]) -> None:
    """AP over all images."""
    numbers = job.numbers
    scores = average_precision(true_instances(job.data, entries), detections)
    per_class = [
        {"id": id, "class": job.data.classes[id], **row}
        for id, row in scores.pop("per_class").items()
    ]
    metrics = {
        **scores,
        "per_class": {row["class"]: row["AP50"] for row in per_class},
        "split": numbers.split,
        "images": len(entries),
        "score": numbers.score,
        "detections": numbers.detections,
        "scales": [1.0],
        "flip": False,
    }
    write_json(job.out("metrics.json"), metrics)
    announce(job, scores | {"split": numbers.split, "images": len(entries)}, per_class)
