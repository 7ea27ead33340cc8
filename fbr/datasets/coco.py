"""COCO 2014 from its own annotation files and image folders."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fbr.datasets import saliency
from fbr.datasets.coco_json import Instances, Span, objects
from fbr.datasets.prepared import VOID, Built, Entry
from fbr.datasets.workers import Watched, in_order, unwatched
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link
from fbr.params import CocoSource

WHENCE = {
    "train": "COCO 2014: train2014.zip of cocodataset.org",
    "val": "COCO 2014: val2014.zip of cocodataset.org",
    "annotations": "COCO 2014: annotations_trainval2014.zip of cocodataset.org",
}
SPLITS = {"train": "train2014", "val": "val2014"}
DEPTHS = ("", "*/", "*/*/")


def _find(source: CocoSource, root: Path, name: str) -> Path | None:
    """The first of this name in the user's folder or what was fetched, up to two folders down."""
    places = source.places(root)
    found = (path for place in places for d in DEPTHS for path in sorted(place.glob(d + name)))
    return next(found, None)


def missing(source: CocoSource, root: Path) -> dict[str, str]:
    """What must be fetched first, by archive."""
    needed = {split: [folder] for split, folder in SPLITS.items()}
    needed["annotations"] = [f"instances_{folder}.json" for folder in SPLITS.values()]
    return {
        key: f"{source.root}/{lacking[0]}: {WHENCE[key]}"
        for key, names in needed.items()
        if (lacking := [name for name in names if _find(source, root, name) is None])
    }


def inputs(source: CocoSource, root: Path) -> list[Path]:
    """Files that half-done work depends on."""
    return [_find(source, root, f"instances_{folder}.json") for folder in SPLITS.values()]


class _Task(NamedTuple):
    """One image, and where its objects are."""

    split: str
    image: Path
    size: tuple[int, int]
    spans: list[Span]


def build(
    source: CocoSource,
    root: Path,
    folders: dict[str, PartialFolder],
    processes: int = 1,
    watched: Watched = unwatched,
) -> Built:
    """Link the images and paint the annotations; images without an object keep an empty label."""
    if lines := missing(source, root):
        raise Refusal(f"COCO is not there yet: {'; '.join(lines.values())}")
    entries, number, names, notes = [], {}, [], Counter()
    for split, folder in SPLITS.items():
        listed = Instances(_find(source, root, f"instances_{folder}.json"))
        there = _find(source, root, folder)
        number = {id: i for i, id in enumerate(listed.categories, start=1)}
        said = ["background", *listed.categories.values()]
        if names and said != names:
            raise Refusal(
                f"{listed.file}: its categories are not those of the other split; fetch both again"
            )
        names = said
        tasks = [
            _Task(split, there / image.file_name, (image.height, image.width), image.spans)
            for image in listed
        ]
        work = partial(_one, listed.file, number, source.labels, folders)
        for entry, noted in watched(in_order(work, tasks, processes), "prepare", len(tasks)):
            entries.append(entry)
            notes.update(noted)
    found = dict(sorted(notes.items()))
    if maps := root / source.saliency if source.saliency else _find(source, root, "Saliency"):
        found["saliency"] = saliency.add(maps, entries, folders["saliency"])
    return Built(entries, names, found)


def _one(
    file: Path,
    number: dict[int, int],
    labels: str,
    folders: dict[str, PartialFolder],
    task: _Task,
) -> tuple[Entry, dict[str, int]]:
    """Link and paint one image; return its row of the index, and counts of what was there."""
    id = task.image.stem
    photograph = folders["images"] / f"{id}.jpg"
    link(task.image, photograph)
    if (found := pictures.whole_size(photograph)) != task.size:
        raise Refusal(
            f"{file}: image '{id}' is {task.size[1]}x{task.size[0]} here, its file {found[1]}x"
            f"{found[0]}; fetch both again"
        )
    annotations = objects(file, task.spans)
    files = [folders[name] / f"{id}.png" for name in ("masks", "instances")]
    try:
        if all(path.exists() for path in files):  # an earlier run, killed since
            mask = pictures.read_mask(files[0])
        else:
            mask, instances = paint(annotations, task.size, number)
            pictures.write_mask(files[0], mask)
            pictures.write_mask(files[1], instances)
        named = tuple(sorted({number[a["category_id"]] for a in annotations}))
    except Refusal:
        raise
    except Exception as error:  # pycocotools raises one of no kind
        raise Refusal(f"{file}: image '{id}': an object of it is wrong: {error!r}") from None
    counts = np.bincount(mask.ravel(), minlength=256)
    seen = tuple((np.flatnonzero(counts[1:VOID]) + 1).tolist())
    notes = {
        "objects": len(annotations),
        "crowds, void in the masks": sum(bool(a.get("iscrowd")) for a in annotations),
        "images whose labels and mask differ": int(named != seen),
    }
    return Entry(id, *task.size, (task.split,), named if labels == "json" else seen), notes


def paint(
    annotations: list[dict], size: tuple[int, int], number: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and instance numbers (H, W) uint8: small objects over large ones, crowds void.

    At most 254 objects of an image are kept, the largest: the masks are 8-bit.
    """
    from pycocotools import mask as coco_mask

    mask, instances = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    annotations = sorted(annotations, key=lambda a: (not a.get("iscrowd", 0), -a["area"]))
    count = 0
    for annotation in annotations[: VOID - 1]:
        code = _runs(annotation["segmentation"], size)
        # Only in its box: most objects are small, and this is most of what `prepare` does.
        x, y, width, height = map(int, coco_mask.toBbox(code))
        box = np.s_[y : y + height, x : x + width]
        inside = coco_mask.decode(code)[box].astype(bool)
        crowd = annotation.get("iscrowd", 0)
        count += not crowd
        mask[box][inside] = VOID if crowd else number[annotation["category_id"]]
        instances[box][inside] = VOID if crowd else count
    return mask, instances


def _runs(segmentation: list | dict, size: tuple[int, int]) -> dict:
    """COCO's compressed run lengths of polygons, of plain run lengths or of compressed ones."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        height, width = size
        for polygon in segmentation:
            corners = np.array(polygon, float)  # `null` becomes NaN
            # pycocotools fills the memory with an outline that leads to nowhere.
            if not (np.abs(corners) <= 4 * (height + width)).all():
                raise ValueError(f"polygon {polygon}, expected numbers inside the image")
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
