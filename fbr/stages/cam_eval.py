"""cam_eval: mIoU of the maps at the recipe's threshold and at all, and where they spill."""

import numpy as np

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.tables import write_csv, write_json
from fbr.masks.seeds import label_map
from fbr.metrics.scores import Scores
from fbr.metrics.semantic import Spill, ThresholdCurve
from fbr.stages.images import counted, read_ahead, read_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored
from fbr.stages.thresholds import sweep


def run(job: Job) -> None:
    """Read each file once; every threshold comes out of one confusion tensor."""
    numbers = job.numbers
    folder = job.path("cam_infer", "cams")
    entries = job.data.split(numbers.split)

    def tiles(entry: Entry) -> Tiles:
        seen = read_maps(folder, entry)
        mask = label_map(seen.full(), seen.keys, numbers.threshold)
        return mask_tiles(job, entry, mask, f"CAM > {numbers.threshold:g}")

    if not unscored(job, numbers.split, entries):
        score(job, entries)
    track_overlays(job, entries, tiles)


def score(job: Job, entries: list[Entry]) -> None:
    """Write the curve, the classes and the numbers of one split, and the numbers of another."""
    numbers = job.numbers
    curve, spill, fixed = measured(job, entries)
    also = elsewhere(job)
    oracle_threshold, oracle = curve.best()
    infer = job.params.cam[job.axes["cam"]][job.axes["data"]].infer
    columns = curve.curve()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    write_csv(job.out("curve"), rows)
    per_class = named(fixed.per_class(), job.data.classes)
    write_csv(job.out("per_class"), per_class)
    metrics = {
        **fixed.metrics(),
        "threshold": numbers.threshold,
        "threshold_choice": "fixed",
        "miou_oracle": oracle,
        "threshold_oracle": oracle_threshold,
        **spill.shares(),
        "split": numbers.split,
        "images": len(entries),
        "scales": infer.scales,
        "flip": infer.flip,
        **({} if infer.power == 1 else {"power": infer.power}),
        **({"cells": True} if infer.cells else {}),
        "crf": False,
        **also,
    }
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)


def elsewhere(job: Job) -> dict[str, float]:
    """The numbers of the second split, if there is one and its truth is known."""
    split = job.numbers.also
    if split is None:
        return {}
    known = [entry for entry in job.data.split(split) if job.data.has("masks", entry)]
    if not known:
        log.info("cam_eval: split %s has no ground truth, so no score", split)
        return {}
    curve, _, fixed = measured(job, known)
    return {
        f"miou_{split}": fixed.confusion.miou(),
        f"miou_oracle_{split}": curve.best()[1],
        f"images_{split}": len(known),
    }


def measured(job: Job, entries: list[Entry]) -> tuple[ThresholdCurve, Spill, Scores]:
    """Score the maps of these images at all thresholds, at none, and at the recipe's."""
    folder = job.path("cam_infer", "cams")
    classes, threshold = len(job.data.classes), job.numbers.threshold
    curve, spill, fixed = sweep(classes, threshold), Spill(), Scores(classes)

    def read(entry: Entry) -> tuple[maps.Maps, np.ndarray, np.ndarray | None]:
        found = read_maps(folder, entry)
        known = job.data.has("companions", entry)
        return found, job.data.mask(entry), job.data.companions(entry) if known else None

    for entry, (found, target, companions) in counted(
        read_ahead(entries, read), "cam_eval", len(entries)
    ):
        cam = found.full()
        curve.update(cam, found.keys, target, entry.id)
        spill.update(cam, target, companions, entry.id)
        fixed.update(label_map(cam, found.keys, threshold), target, entry.id)
    return curve, spill, fixed
