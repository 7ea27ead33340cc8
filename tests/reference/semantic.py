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


def near_other(mask, reach):
    """Whether [y][x] lies at most `reach`, in chessboard steps, from another id or the outside."""
    height, width = mask.shape
    found = []
    for y in range(height):
        row = []
        for x in range(width):
            near = False
            for v in range(y - reach, y + reach + 1):
                for u in range(x - reach, x + reach + 1):
                    outside = not (0 <= v < height and 0 <= u < width)
                    near = near or outside or mask[v, u] != mask[y, x]
            row.append(near)
        found.append(row)
    return found


def boundary_counts(pred, target, classes):
    """Pixels [common, predicted, true][class] of boundaries; void in the target is void in both."""
    height, width = target.shape
    reach = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    pred = pred.copy()
    pred[target == 255] = 255
    ours, theirs = near_other(pred, reach), near_other(target, reach)
    counts = [[0] * classes for _ in range(3)]
    for y in range(height):
        for x in range(width):
            p, t = int(pred[y, x]), int(target[y, x])
            if p == t < 255 and ours[y][x] and theirs[y][x]:
                counts[0][t] += 1
            if p < 255 and ours[y][x]:
                counts[1][p] += 1
            if t < 255 and theirs[y][x]:
                counts[2][t] += 1
    return counts


def bootstrap(counts, draws):
    """Mean IoU of each draw of images; counts [image][common, predicted, true][class]."""
    means = []
    for draw in draws:
        ious = []
        for c in range(len(counts[0][0])):
            common, predicted, true = (
                sum(int(counts[image][kind][c]) for image in draw) for kind in range(3)
            )
            ious.append(_ratio(common, predicted + true - common))
        means.append(mean(ious))
    return means
