"""Average precision of masks, matched one by one (COCO rules, 101-point interpolation)."""

import numpy as np


def overlap(detected, true, crowd):
    """Return intersection over union, or over the detection alone for a crowd region."""
    union = detected.sum() if crowd else (detected | true).sum()
    return (detected & true).sum() / union if union else 0.0


def match(detections, truths, level):
    """Return (score, hit) of the detections of one image and class that count.

    The highest detection chooses first: the free instance it overlaps most, by at least `level`.
    Without one, a crowd region that it overlaps as much takes it out of the count.
    """
    taken, outcome = set(), []
    for detection in sorted(detections, key=lambda d: -d["score"])[:100]:
        best, chosen = level, None
        for number, truth in enumerate(truths):
            if not truth["crowd"] and number not in taken:
                iou = overlap(detection["mask"], truth["mask"], False)
                if iou >= best:
                    best, chosen = iou, number
        if chosen is not None:
            taken.add(chosen)
            outcome.append((detection["score"], True))
        elif not any(
            truth["crowd"] and overlap(detection["mask"], truth["mask"], True) >= level
            for truth in truths
        ):
            outcome.append((detection["score"], False))
    return outcome


def interpolated(outcome, instances):
    """Return the mean over recalls 0, 0.01, ..., 1 of the best precision from there on."""
    outcome = sorted(outcome, key=lambda o: -o[0])
    curve, hits = [], 0
    for rank, (_, hit) in enumerate(outcome, start=1):
        hits += hit
        curve.append((hits / instances, hits / rank))
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        total += max((p for r, p in curve if r >= recall), default=0.0)
    return total / 101


def average_precision(truths, detections, class_id, level):
    """Score one class at one overlap; records hold image_id, category_id, mask, crowd or score."""
    outcome, instances = [], 0
    images = sorted({record["image_id"] for record in truths + detections})
    for image_id in images:
        own = [
            [r for r in records if r["image_id"] == image_id and r["category_id"] in wanted]
            for records, wanted in ((detections, {class_id}), (truths, {class_id, 255}))
        ]
        outcome += match(*own, level)
        instances += sum(not truth["crowd"] for truth in own[1])
    return interpolated(outcome, instances)
