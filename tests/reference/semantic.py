"""Confusion counts, the rates drawn from them, and spilt activation, one pixel at a time."""

import math


def confusion(pred, target, classes):
    """Counts [target][prediction], with one more column for void predictions."""
    counts = [[0] * (classes + 1) for _ in range(classes)]
    for p, t in zip(pred.ravel().tolist(), target.ravel().tolist(), strict=True):
        if t != 255:
            counts[t][classes if p == 255 else p] += 1
    return counts


def rates(counts):
    """One dict per class: iou, precision, recall, fp, fn; NaN for 0/0."""
    rows = []
    for c in range(len(counts)):
        hit = counts[c][c]
        missed = sum(counts[c]) - hit
        false = sum(row[c] for row in counts) - hit
        union = hit + missed + false
        rows.append(
            {
                "iou": _ratio(hit, union),
                "precision": _ratio(hit, hit + false),
                "recall": _ratio(hit, hit + missed),
                "fp": _ratio(false, union),
                "fn": _ratio(missed, union),
            }
        )
    return rows


def mean(values):
    """Mean of what is not NaN; NaN if nothing is left."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def spill(images):
    """Shares on background and on companion ground of images (cam, target, companions or None)."""
    everywhere = background = companion = 0.0
    for cam, target, companions in images:
        for y in range(target.shape[0]):
            for x in range(target.shape[1]):
                if target[y, x] == 255:
                    continue
                activation = 0.0
                for scores in cam:
                    activation = max(activation, float(scores[y, x]))
                everywhere += activation
                if target[y, x] == 0:
                    background += activation
                    if companions is not None and companions[y, x] > 0:
                        companion += activation
    return {
        "spill_background": _ratio(background, everywhere),
        "spill_companions": _ratio(companion, everywhere),
    }


def _ratio(part, whole):
    return part / whole if whole else math.nan
