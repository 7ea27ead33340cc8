"""Average precision of instance masks, by COCO's own matching and 101-point interpolation."""

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

VOID = 255

# Rounded, so that an overlap of exactly 0.85 reaches the threshold 0.85.
_AVERAGED = [round(0.5 + 0.05 * step, 2) for step in range(10)]


def average_precision(
    ground_truth: Iterable[Mapping],
    detections: Iterable[Mapping],
    thresholds: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
) -> dict:
    """Return {"AP", "AP25", ..., "per_class": {class id: {"AP", "AP25", ...}}}, all in 0..1.

    ground_truth: {"image_id", "category_id", "segmentation": RLE} an instance; detections have a
    "score" besides. "AP" is the mean over overlaps 0.5 to 0.95, the others are at `thresholds`.
    A detection on a region marked "iscrowd" (of its class) or of class 255 (void, of any class)
    is not counted. Classes without ground truth are left out; without any, everything is 0. Of
    one class and image the 100 highest detections count.
    """
    ground_truth, detections = list(ground_truth), list(detections)
    classes = sorted({g["category_id"] for g in ground_truth if not g.get("iscrowd")} - {VOID})
    names = {"AP": _AVERAGED} | {f"AP{round(100 * t)}": [t] for t in thresholds}
    levels = sorted({level for name in names.values() for level in name})
    if not classes:
        return dict.fromkeys(names, 0.0) | {"per_class": {}}

    table = _precision(ground_truth, detections, classes, levels)
    rows = {name: [levels.index(level) for level in used] for name, used in names.items()}
    per_class = {
        number: {name: float(table[row, column].mean()) for name, row in rows.items()}
        for column, number in enumerate(classes)
    }
    return {name: float(table[row].mean()) for name, row in rows.items()} | {"per_class": per_class}


def _precision(
    ground_truth: list[Mapping], detections: list[Mapping], classes: list[int], levels: list[float]
) -> np.ndarray:
    """Return average precision as (levels, classes)."""
    sizes = {r["image_id"]: r["segmentation"]["size"] for r in ground_truth + detections}
    numbers = {image_id: number for number, image_id in enumerate(sorted(sizes), start=1)}
    images = [
        {"id": numbers[image_id], "height": height, "width": width}
        for image_id, (height, width) in sizes.items()
    ]
    void = [
        {**record, "category_id": number, "iscrowd": 1}
        for record in ground_truth
        if record["category_id"] == VOID
        for number in classes
    ]
    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(images, [*ground_truth, *void], numbers, classes),
            _coco(images, detections, numbers, classes),
            "segm",
        )
        evaluation.params.iouThrs = np.array(levels)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0, 0].mean(axis=1)


def _coco(images: list[dict], records: list[Mapping], numbers: Mapping, classes: list[int]) -> COCO:
    # Ids start at 1: COCOeval takes a match with the annotation of id 0 for no match.
    annotations = [
        {
            "id": number,
            "image_id": numbers[record["image_id"]],
            "category_id": record["category_id"],
            "segmentation": record["segmentation"],
            "area": float(mask.area(record["segmentation"])),
            "iscrowd": int(record.get("iscrowd", 0)),
            "score": record.get("score", 1.0),
        }
        for number, record in enumerate(records, start=1)
    ]
    index = COCO()
    index.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number} for number in classes],
    }
    index.createIndex()
    return index
