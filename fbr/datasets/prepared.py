"""A prepared dataset: the folder that `prepare` wrote, read by every other stage."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fbr.errors import Refusal, nearest
from fbr.files import pictures
from fbr.files.tables import read_csv, read_json, write_csv, write_json

VOID = 255
ASPECT = 0.05  # by which width / height of a smaller picture may differ: its sides are rounded


@dataclass(frozen=True)
class Entry:
    """One image of the index: its size and the ids of the classes it shows."""

    id: str
    height: int
    width: int
    splits: tuple[str, ...]
    classes: tuple[int, ...]

    def has_shape_of(self, height: int, width: int) -> bool:
        """Whether a picture of this size may show the image at another scale."""
        cross = height * self.width, width * self.height
        return abs(cross[0] - cross[1]) <= ASPECT * cross[0]


class Built(NamedTuple):
    """What a source made: the index, the class names by id, and what found.json shall say."""

    entries: list[Entry]
    names: list[str]
    found: dict[str, Any]


def write_index(folder: Path, entries: list[Entry], names: list[str]) -> None:
    """Write index.csv and classes.json; `names` starts with the background."""
    write_csv(
        folder / "index.csv",
        (
            {
                "id": e.id,
                "width": e.width,
                "height": e.height,
                "split": " ".join(e.splits),
                "classes": " ".join(map(str, e.classes)),
            }
            for e in entries
        ),
    )
    write_json(folder / "classes.json", {str(i): name for i, name in enumerate(names)})


class Prepared:
    """`data/<data>/`: ids, sizes, splits, labels, and the pictures behind them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = read_json(folder / "classes.json")
        if not (isinstance(names, dict) and names):
            raise Refusal(
                f"{folder / 'classes.json'}: not a table of class names by id; run prepare again"
            )
        self.classes: list[str] = list(names.values())
        try:
            self.entries = [
                Entry(
                    row["id"],
                    int(row["height"]),
                    int(row["width"]),
                    tuple(row["split"].split()),
                    tuple(int(c) for c in row["classes"].split()),
                )
                for row in read_csv(folder / "index.csv")
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Refusal(
                f"{folder / 'index.csv'}: not an index ({error}); expected the columns "
                "id,width,height,split,classes; run prepare again"
            ) from None
        for entry in self.entries:
            if any(not 1 <= c <= self.foreground for c in entry.classes):
                raise Refusal(
                    f"{folder / 'index.csv'}: id '{entry.id}' has classes {entry.classes}, "
                    f"expected ids 1 to {self.foreground}; run prepare again"
                )

    @property
    def foreground(self) -> int:
        """K, the number of foreground classes."""
        return len(self.classes) - 1

    def split(self, name: str) -> list[Entry]:
        """The images of a split; an unknown or empty one is refused."""
        chosen = [e for e in self.entries if name in e.splits]
        if not chosen:
            known = sorted({s for e in self.entries for s in e.splits})
            raise Refusal(
                f"{self.folder / 'index.csv'}: split '{name}' is empty, expected one of "
                f"{', '.join(known) or '(none)'}.{nearest(name, known)}"
            )
        return chosen

    def image(self, entry: Entry) -> np.ndarray:
        """(H, W, 3) uint8, of the size that the index says."""
        return read_image(self.folder, entry)

    def mask(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8 ground truth: 0 background, 1…K classes, 255 void."""
        return self.ids(self.folder / "masks" / f"{entry.id}.png", entry)

    def ids(self, path: Path, entry: Entry) -> np.ndarray:
        """(H, W) uint8 ids of a mask of this image, wherever it lies; size and ids are checked."""
        return checked_ids(sized(pictures.read_mask(path), entry, path), self.foreground, path)

    def instances(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8: 0 none, 1…n instances, 255 void."""
        path = self.folder / "instances" / f"{entry.id}.png"
        return sized(pictures.read_mask(path), entry, path)

    def companions(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8: the class 1…K whose companion ground is seen there, else 0."""
        return self.ids(self.folder / "companions" / f"{entry.id}.png", entry)

    def saliency(self, entry: Entry) -> np.ndarray:
        """(H, W) uint8, 0…255; a map may be smaller than its image, and grows to its size here."""
        path = self.folder / "saliency" / f"{entry.id}.png"
        saliency = pictures.read_grey(path)
        if not entry.has_shape_of(*saliency.shape):
            return sized(saliency, entry, path)
        size = entry.width, entry.height
        return np.asarray(Image.fromarray(saliency).resize(size, Image.Resampling.BILINEAR))

    def has(self, kind: str, entry: Entry) -> bool:
        """Whether there is a mask of this kind ("masks", "instances", …): a test split has none."""
        return (self.folder / kind / f"{entry.id}.png").is_file()

    def labels(self, entries: list[Entry]) -> np.ndarray:
        """(n, K) float32, 1 where a class is present."""
        labels = np.zeros((len(entries), self.foreground), np.float32)
        for row, entry in zip(labels, entries, strict=True):
            row[[c - 1 for c in entry.classes]] = 1
        return labels


def read_image(folder: Path, entry: Entry) -> np.ndarray:
    """One image of a prepared dataset, without its index: for pools that start bare."""
    path = folder / "images" / f"{entry.id}.jpg"
    return sized(pictures.read_image(path), entry, path)


def sized(array: np.ndarray, entry: Entry, path: Path) -> np.ndarray:
    """Return the array, or refuse a size other than the index's."""
    if array.shape[:2] != (entry.height, entry.width):
        raise Refusal(
            f"{path}: id '{entry.id}' is {array.shape[1]}x{array.shape[0]} here, expected "
            f"{entry.width}x{entry.height} as in index.csv; run the stage that wrote it again"
        )
    return array


def checked_ids(mask: np.ndarray, foreground: int, path: Path) -> np.ndarray:
    """Return the mask, or refuse ids outside 0…K, 255."""
    counts = np.bincount(mask.ravel(), minlength=256)
    wrong = np.flatnonzero(counts[foreground + 1 : VOID]) + foreground + 1
    if len(wrong):
        raise Refusal(
            f"{path}: id '{path.stem}' has label {wrong[0]}, expected 0 to {foreground}, "
            "or 255 for void"
        )
    return mask


def describe(prepared: Prepared) -> str:
    """One line for a log: how many images, in which splits."""
    splits = sorted({s for e in prepared.entries for s in e.splits})
    counts = {s: sum(s in e.splits for e in prepared.entries) for s in splits}
    return json.dumps({"images": len(prepared.entries), **counts})
