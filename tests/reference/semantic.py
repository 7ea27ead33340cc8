"""Confusion counts and the rates drawn from them, one pixel and one class at a time."""

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


def _ratio(part, whole):
    return part / whole if whole else math.nan
