"""Mean intersection over union, at one threshold or all, and the share of activation on background.

Everything is counted over the pixels of the whole set, never averaged over images (the VOC rule).
"""

import numpy as np

from fbr.errors import Refusal

VOID = 255


class Confusion:
    """Counts (C, C + 1) of target id by predicted id; the last column counts void predictions.

    Void target pixels are left out. A void prediction on a labelled pixel is a miss of the true
    class and a false alarm of none: label maps with holes score lower, they do not cheat.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes, classes + 1), np.int64)

    def update(self, pred: np.ndarray, target: np.ndarray, image: str | None = None) -> np.ndarray:
        """Count one image: pred and target (H, W) uint8, ids 0..C-1 or void (255).

        Return the image's own counts (C, C + 1).
        """
        _check_mask(pred, "prediction", target.shape, image)
        _check_mask(target, "target", pred.shape, image)
        # All pairs of bytes fit one table, so the count also shows every id out of range.
        pairs = np.bincount((target.astype(np.uint16) * 256 + pred).ravel(), minlength=256 * 256)
        pairs = pairs.reshape(256, 256)
        _check_ids(pairs.any(axis=0), self.classes, "prediction", image)
        _check_ids(pairs.any(axis=1), self.classes, "target", image)
        counts = pairs[: self.classes, [*range(self.classes), VOID]]
        self.counts += counts
        return counts

    def merge(self, other: "Confusion") -> None:
        """Add the counts of another part of the data."""
        self.counts += other.counts

    def iou(self) -> np.ndarray:
        """Return the IoU (C,) in 0..1, NaN for classes neither seen nor predicted."""
        return self._rates()["iou"]

    def miou(self) -> float:
        """Return the mean IoU over the classes that are seen or predicted; NaN if none is."""
        return float(known_mean(self.iou()))

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels that are right; NaN if there are none."""
        return float(ratio(self.counts.trace(), self.counts.sum()))

    def per_class(self) -> list[dict[str, float]]:
        """Return one row per class: id, pixels, iou, precision, recall, fp, fn.

        fp (over-activation) and fn (under-activation) are shares of the union, so that
        iou + fp + fn = 1. What is 0/0 is NaN.
        """
        rates = self._rates()
        return [
            {"id": i, "pixels": int(self.counts[i].sum())}
            | {n: float(v[i]) for n, v in rates.items()}
            for i in range(self.classes)
        ]

    def _rates(self) -> dict[str, np.ndarray]:
        return _rates(self.counts[:, :-1], seen=self.counts.sum(axis=1))


class ThresholdCurve:
    """The confusion of `label_map` at every background threshold, from one look at each image.

    A pixel is its strongest class at thresholds below that class's score and background at the
    others. So it is counted once, by number of thresholds passed, in a histogram (T + 1, C, C) of
    [passed, target, strongest class], whose cumulative sums are the T confusion matrices.
    """

    def __init__(self, classes: int, thresholds: np.ndarray | None = None) -> None:
        """Take the number of classes with background and the thresholds (default 0.00..0.59)."""
        self.classes = classes
        self.thresholds = np.arange(60) / 100 if thresholds is None else np.unique(thresholds)
        # Compared in float32, like the scores, so that the curve and label_map agree on ties.
        self._edges = self.thresholds.astype(np.float32)
        self.histogram = np.zeros((len(self.thresholds) + 1, classes, classes), np.int64)

    def update(
        self, cam: np.ndarray, keys: np.ndarray, target: np.ndarray, image: str | None = None
    ) -> None:
        """Count one image: cam (k, H, W) in 0..1, keys (k,) ids 1..C-1, target (H, W) uint8.

        k may be 0. Void target pixels (255) are left out.
        """
        _check_mask(target, "target", cam.shape[1:], image)
        ids = self._columns(keys, len(cam), image)
        # What does not exceed the lowest threshold is background on the whole curve.
        scores = np.empty((len(ids), *target.shape), np.float32)
        scores[0] = self._edges[0]
        scores[1:] = cam
        passed = np.searchsorted(self._edges, scores.max(axis=0))
        shape = (len(self.histogram), 256, len(ids))
        cells = (passed * 256 + target) * len(ids) + scores.argmax(axis=0)
        table = np.bincount(cells.ravel(), minlength=np.prod(shape)).reshape(shape)
        _check_ids(table.any(axis=(0, 2)), self.classes, "target", image)
        self.histogram[:, :, ids] += table[:, : self.classes]

    def merge(self, other: "ThresholdCurve") -> None:
        """Add the counts of another part of the data, taken at the same thresholds."""
        self.histogram += other.histogram

    def confusion(self, threshold: float) -> Confusion:
        """Return the confusion at one of the thresholds."""
        at = np.flatnonzero(self._edges == np.float32(threshold))
        if not at.size:
            low, high = self.thresholds[0], self.thresholds[-1]
            raise Refusal(
                f"threshold {threshold} is none of the {len(self.thresholds)} on the curve"
                f" ({low:.2f} to {high:.2f}): choose one of them or add it to the curve"
            )
        confusion = Confusion(self.classes)
        confusion.counts[:, :-1] = self._counts()[at[0]]
        return confusion

    def curve(self) -> dict[str, np.ndarray]:
        """Return threshold, miou and the foreground means of fp and fn, each (T,).

        fp and fn as in `Confusion.per_class`; classes neither seen nor predicted are left out.
        """
        counts = self._counts()
        rates = _rates(counts, seen=counts.sum(axis=-1))
        return {
            "threshold": self.thresholds,
            "miou": known_mean(rates["iou"]),
            "fp": known_mean(rates["fp"][:, 1:]),
            "fn": known_mean(rates["fn"][:, 1:]),
        }

    def best(self) -> tuple[float, float]:
        """Return the threshold of the highest mIoU, the lowest such one, and that mIoU.

        It is chosen on the ground truth: an oracle, to be called so wherever it is shown.
        """
        miou = self.curve()["miou"]
        if np.isnan(miou).all():
            raise Refusal("no labelled pixel was counted: the split is empty or all void")
        at = int(np.nanargmax(miou))
        return float(self.thresholds[at]), float(miou[at])

    def _counts(self) -> np.ndarray:
        """Confusion matrices (T, C, C): target by prediction at each threshold."""
        foreground = self.histogram[::-1].cumsum(axis=0)[::-1][1:]
        background = self.histogram.sum(axis=(0, 2)) - foreground.sum(axis=2)
        foreground[:, :, 0] = background
        return foreground

    def _columns(self, keys: np.ndarray, maps: int, image: str | None) -> np.ndarray:
        ids = np.concatenate([[0], keys]).astype(np.intp)
        if len(np.unique(ids)) != maps + 1 or ids.min() < 0 or ids.max() >= self.classes:
            raise Refusal(
                f"{_name(image)}map keys are {ids[1:].tolist()},"
                f" expected {maps} different ids in 1..{self.classes - 1}: infer the maps again"
            )
        return ids


class Spill:
    """Shares of the foreground activation that fall on true background, and on companion ground.

    A pixel's activation is its strongest class's score, whatever that class. No threshold.
    """

    def __init__(self) -> None:
        # Activation on labelled pixels, on background, and on companion ground in the background.
        self.sums = np.zeros(3)
        self.with_companions = False

    def update(
        self,
        cam: np.ndarray,
        target: np.ndarray,
        companions: np.ndarray | None = None,
        image: str | None = None,
    ) -> None:
        """Add one image: cam (k, H, W) in 0..1, target and companions (H, W) uint8.

        k may be 0. Void target pixels (255) are left out. companions is 0 where there is no
        companion ground; what of it lies under an object in the target is not counted. None is an
        image of which nothing is known; it counts like one without any.
        """
        _check_mask(target, "target", cam.shape[1:], image)
        strongest = cam.max(axis=0, initial=0)
        background = target == 0
        spilt = np.zeros_like(background)
        if companions is not None:
            _check_mask(companions, "companions mask", target.shape, image)
            spilt = background & (companions > 0)
            self.with_companions = True
        regions = (target != VOID, background, spilt)
        self.sums += [strongest[region].sum(dtype=np.float64) for region in regions]

    def merge(self, other: "Spill") -> None:
        """Add the sums of another part of the data."""
        self.sums += other.sums
        self.with_companions |= other.with_companions

    def shares(self) -> dict[str, float]:
        """Return spill_background and, if any image had companions, spill_companions.

        Both in 0..1, the second a part of the first; NaN if nothing is active.
        """
        names = ("spill_background", "spill_companions")[: 1 + self.with_companions]
        shares = ratio(self.sums[1:], self.sums[0])
        return {name: float(share) for name, share in zip(names, shares, strict=False)}


def _rates(counts: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Per-class rates (..., C) from counts (..., C, C) and labelled pixels per class (..., C)."""
    hit = counts.diagonal(axis1=-2, axis2=-1)
    predicted = counts.sum(axis=-2)
    union = seen + predicted - hit
    return {
        "iou": ratio(hit, union),
        "precision": ratio(hit, predicted),
        "recall": ratio(hit, seen),
        "fp": ratio(predicted - hit, union),
        "fn": ratio(seen - hit, union),
    }


def ious(counts: np.ndarray) -> np.ndarray:
    """IoU (..., C) from pixels (..., 3, C) that are common, predicted and true.

    NaN for classes neither seen nor predicted.
    """
    common, predicted, true = np.moveaxis(counts, -2, 0)
    return ratio(common, predicted + true - common)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part by whole; NaN, and no warning, for 0/0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the last axis without its NaNs; NaN, and no warning, where all are."""
    return ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _check_mask(mask: np.ndarray, what: str, size: tuple[int, ...], image: str | None) -> None:
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise Refusal(f"{_name(image)}{what} is {mask.dtype} {mask.shape}, expected uint8 (H, W)")
    if mask.shape != size:
        raise Refusal(f"{_name(image)}{what} is {mask.shape}, expected {size}: not the same image?")


def _check_ids(present: np.ndarray, classes: int, what: str, image: str | None) -> None:
    stray = np.flatnonzero(present[classes:VOID]) + classes
    if stray.size:
        raise Refusal(
            f"{_name(image)}{what} holds ids {stray.tolist()}, expected 0..{classes - 1} or"
            f" {VOID} (void): was it made for another list of classes?"
        )


def _name(image: str | None) -> str:
    return f"image {image}: " if image else ""
