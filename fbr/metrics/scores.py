"""All that is said of label maps, from one look at each: classes, boundaries, and how sure."""

import numpy as np

from fbr.metrics.bootstrap import interval
from fbr.metrics.boundary import boundary_counts
from fbr.metrics.semantic import Confusion, ious, known_mean


class Scores:
    """A confusion, boundary IoU, and each image's own counts, three numbers a class."""

    def __init__(self, classes: int) -> None:
        self.confusion = Confusion(classes)
        self.boundaries = np.zeros((3, classes), np.int64)
        self._images: list[np.ndarray] = []

    def update(self, pred: np.ndarray, target: np.ndarray, image: str | None = None) -> None:
        """Count one image: pred and target (H, W) uint8, ids 0..C-1 or void (255)."""
        counts = self.confusion.update(pred, target, image)
        own = [counts.diagonal(), counts[:, :-1].sum(0), counts.sum(1)]
        self._images.append(np.array(own, np.uint32))
        self.boundaries += boundary_counts(pred, target, self.confusion.classes)

    def images(self) -> np.ndarray:
        """Counts (n, 3, C) uint32 of each image: common, predicted and true pixels."""
        return np.array(self._images, np.uint32).reshape(-1, 3, self.confusion.classes)

    def metrics(self) -> dict[str, float]:
        """Mean IoU with its 95 % interval over images, pixel accuracy, mean boundary IoU, fp, fn.

        fp (over-activation) and fn (under-activation) are means over the foreground of shares of
        the union.
        """
        rows = self.confusion.per_class()[1:]
        low, high = interval(self.images())
        return {
            "miou": self.confusion.miou(),
            "miou_low": low,
            "miou_high": high,
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "boundary_iou": float(known_mean(ious(self.boundaries))),
            **{n: float(known_mean(np.array([row[n] for row in rows]))) for n in ("fp", "fn")},
        }

    def per_class(self) -> list[dict[str, float]]:
        """Rows of `Confusion.per_class`, each with its boundary IoU."""
        near = ious(self.boundaries)
        rows = self.confusion.per_class()
        return [row | {"boundary_iou": float(near[row["id"]])} for row in rows]
