"""Pascal VOC 2012 from a folder in VOCdevkit's layout, with all classes or some of them."""

from pathlib import Path

import numpy as np

from fbr.datasets.prepared import VOID, Entry, checked_ids
from fbr.errors import Refusal, nearest
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link
from fbr.params import VocSource

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
WHENCE = "VOC 2012: the VOCtrainval_11-May-2012 archive of the PASCAL VOC challenge, unpacked"
WHENCE_AUG = "SegmentationClassAug: VOC's masks with those of SBD, as many WSSS projects give them"


def names(source: VocSource) -> list[str]:
    """Class names by id; a subset is numbered anew, in VOC's order."""
    chosen = source.classes or CLASSES
    for name in chosen:
        if name not in CLASSES:
            raise Refusal(
                f"params.yaml: classes: found '{name}', expected classes of VOC."
                f"{nearest(name, CLASSES)}"
            )
    return ["background", *(c for c in CLASSES if c in chosen)]


def missing(source: VocSource, root: Path) -> list[str]:
    """What must be fetched first, a line each."""
    base = root / source.root
    needed = {
        base / "JPEGImages": WHENCE,
        base / "ImageSets" / "Segmentation": WHENCE,
        base / source.train_masks: WHENCE_AUG,
    }
    return [
        f"{path.relative_to(root) if path.is_relative_to(root) else path}: {whence}"
        for path, whence in needed.items()
        if not path.is_dir()
    ]


def build(
    source: VocSource, root: Path, folders: dict[str, PartialFolder]
) -> tuple[list[Entry], list[str]]:
    """Link the images, rewrite the masks in the contract's ids, and read the split lists."""
    if lines := missing(source, root):
        raise Refusal(f"VOC is not there yet: {'; '.join(lines)}")
    base = root / source.root
    splits: dict[str, list[str]] = {}
    for file in sorted((base / "ImageSets" / "Segmentation").glob("*.txt")):
        for id in file.read_text().split():
            splits.setdefault(id, []).append(file.stem.replace("trainaug", "train_aug"))
    if not splits:
        raise Refusal(
            f"{base / 'ImageSets' / 'Segmentation'}: no ids in its lists, expected train.txt, …"
        )
    table = _renumbering(source)
    saliency = base / "Saliency"
    entries = []
    for id, found in sorted(splits.items()):
        link(base / "JPEGImages" / f"{id}.jpg", folders["images"] / f"{id}.jpg")
        size = pictures.read_size(folders["images"] / f"{id}.jpg")
        classes: tuple[int, ...] = ()
        mask_file = base / source.train_masks / f"{id}.png"
        if mask_file.is_file():
            mask = table[checked_ids(_mask(mask_file, size), len(CLASSES), mask_file)]
            classes = tuple(int(c) for c in np.unique(mask) if 0 < c < VOID)
            pictures.write_mask(folders["masks"] / f"{id}.png", mask)
        elif set(found) - {"test"}:
            raise Refusal(
                f"{mask_file}: missing, expected the mask of id '{id}', which is in the split "
                f"{found[0]}; without it the image would train as one that shows nothing"
            )
        object_file = base / "SegmentationObject" / f"{id}.png"
        if object_file.is_file():
            pictures.write_mask(folders["instances"] / f"{id}.png", _mask(object_file, size))
        if (saliency / f"{id}.png").is_file():
            link(saliency / f"{id}.png", folders["saliency"] / f"{id}.png")
        entries.append(Entry(id, *size, tuple(found), classes))
    return entries, names(source)


def _mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    mask = pictures.read_mask(path)
    if mask.shape != size:
        raise Refusal(
            f"{path}: id '{path.stem}' is {mask.shape[1]}x{mask.shape[0]} here, its image "
            f"{size[1]}x{size[0]}; fetch both again"
        )
    return mask


def _renumbering(source: VocSource) -> np.ndarray:
    """(256,) VOC's ids → ours; classes left out become void."""
    chosen = names(source)[1:]
    table = np.full(256, VOID, np.uint8)
    table[0] = 0
    for new, name in enumerate(chosen, start=1):
        table[CLASSES.index(name) + 1] = new
    return table
