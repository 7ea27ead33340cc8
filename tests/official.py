"""VOC, SBD and COCO in their own formats, of a few tiny images each."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import savemat

from fbr.datasets.voc import CLASSES
from fbr.files import pictures

SIZE = (12, 18)
VOC = {  # id → the classes of its three columns
    "2007_000032": (1, 0, 15),
    "2007_000039": (20, 20, 0),
    "2008_000001": (0, 8, 8),  # of SBD alone
    "2008_000002": (12, 0, 15),  # of SBD alone
    "2011_000003": (7, 0, 0),
    "2008_000004": (),  # of the test split
}
LISTS = {
    "train": ["2007_000032", "2007_000039"],
    "val": ["2011_000003"],
    "trainval": ["2007_000032", "2007_000039", "2011_000003"],
}
TEST = ["2008_000004"]
SBD = ["2007_000032", "2008_000001", "2008_000002", "2011_000003"]
AUG = ["2007_000032", "2007_000039", "2008_000001", "2008_000002"]


def mask(labels: tuple[int, ...]) -> np.ndarray:
    """The labels side by side, void at the bottom."""
    found = np.zeros(SIZE, np.uint8)
    for number, label in enumerate(labels):
        found[:-2, 6 * number : 6 * number + 6] = label
    found[-2:] = 255
    return found


def _photograph(path: Path, number: int) -> None:
    image = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), np.uint8)
    pictures.write_jpeg(path, image)


def _xml(labels: list[int]) -> str:
    boxed = "".join(
        f"<object><name>{CLASSES[label - 1]}</name><difficult>1</difficult>"
        "<part><name>head</name></part></object>"
        for label in labels
    )
    return f"<annotation><folder>VOC2012</folder>{boxed}</annotation>"


def voc(folder: Path) -> Path:
    """VOCdevkit/VOC2012 as the challenge's archive holds it; one XML boxes more than the mask."""
    base = folder / "VOCdevkit" / "VOC2012"
    for number, (id, labels) in enumerate(VOC.items()):
        if id in TEST:
            continue
        _photograph(base / "JPEGImages" / f"{id}.jpg", number)
        seen = [label for label in dict.fromkeys(labels) if label]
        (base / "Annotations").mkdir(exist_ok=True)
        more = [5] if id == "2007_000039" else []
        (base / "Annotations" / f"{id}.xml").write_text(_xml(seen + more))
        if id in LISTS["trainval"]:
            pictures.write_mask(base / "SegmentationClass" / f"{id}.png", mask(labels))
            pictures.write_mask(base / "SegmentationObject" / f"{id}.png", mask((1,)))
    _lists(base, LISTS)
    return base


def voc_test(folder: Path) -> Path:
    base = folder / "VOCdevkit" / "VOC2012"
    for id in TEST:
        _photograph(base / "JPEGImages" / f"{id}.jpg", 99)
    _lists(base, {"test": TEST})
    return base


def _lists(base: Path, lists: dict[str, list[str]]) -> None:
    for name, ids in lists.items():
        file = base / "ImageSets" / "Segmentation" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(ids) + "\n")


def sbd(folder: Path) -> Path:
    """benchmark_RELEASE/dataset as in Berkeley's archive, without its copies of images."""
    base = folder / "benchmark_RELEASE" / "dataset"
    (base / "cls").mkdir(parents=True)
    for id in SBD:
        inside = {"Segmentation": np.where(mask(VOC[id]) == 255, 0, mask(VOC[id]))}
        savemat(base / "cls" / f"{id}.mat", {"GTcls": inside}, do_compression=True)
    (base / "train.txt").write_text("\n".join(SBD) + "\n")
    return base


def coco(folder: Path, images: int = 3) -> None:
    """train2014, val2014 and annotations; the last image of each split shows nothing."""
    for split in ("train2014", "val2014"):
        listed, objects = [], []
        for number in range(1, images + 1):
            name = f"COCO_{split}_{number:012d}.jpg"
            _photograph(folder / split / name, number)
            height, width = SIZE
            listed.append({"id": number, "file_name": name, "height": height, "width": width})
            if number < images:
                box = [1, 1, 9, 1, 9, 8, 1, 8]
                objects.append(
                    {
                        "id": number,
                        "image_id": number,
                        "category_id": 18,
                        "segmentation": [box],
                        "area": 56,
                        "bbox": [1, 1, 8, 7],
                        "iscrowd": 0,
                    }
                )
        file = folder / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
        content = {"info": {}, "images": listed, "annotations": objects, "categories": categories}
        file.write_text(json.dumps(content))


def tarred(folder: Path, archive: Path) -> bytes:
    """Everything below a folder as a tar, or as a tar.gz where the name says so."""
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as file:
        for path in sorted(folder.iterdir()):
            file.add(path, path.name)
    return archive.read_bytes()


def zipped(folder: Path, archive: Path, *names: str) -> bytes:
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            for path in sorted((folder / name).rglob("*")):
                file.write(path, path.relative_to(folder))
    return archive.read_bytes()
