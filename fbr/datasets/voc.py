"""Pascal VOC 2012, with SBD or without, with all classes or some of them.

It goes round in many layouts: the challenge's archives, SBD's masks as MATLAB files or as the
folder SegmentationClassAug, lists of ids beside them or in the `voc12/` of IRN and its heirs. What
is in the folder that the user named, or was fetched, is put together from all of these.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from fbr.datasets import saliency
from fbr.datasets.prepared import VOID, Built, Entry, checked_ids
from fbr.datasets.workers import Watched, in_order, unwatched
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
WHENCE = {
    "trainval": "VOC 2012: VOCtrainval_11-May-2012.tar of the PASCAL VOC challenge",
    "sbd": "the masks of train_aug: {masks}, or SBD's benchmark.tgz",
    "test": "the test images: VOC2012test.tar of the challenge's evaluation server",
}
OTHER_YEARS = re.compile(r"VOC20(0\d|1[01])")
SPLITS = ("train", "train_aug", "trainval", "val", "test")
LISTS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug", "voc12")


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


@dataclass
class Layout:
    """What of VOC and SBD lies in some folders, wherever in them."""

    places: list[Path]
    train_masks: str

    def _below(self, path: str) -> list[Path]:
        """Folders of this path, up to three folders down, but none of another year of VOC."""
        if Path(path).is_absolute():
            return [Path(path)] if Path(path).is_dir() else []
        found = (
            folder
            for place in self.places
            for depth in ("", "*/", "*/*/", "*/*/*/")
            for folder in sorted(place.glob(depth + path))
            if folder.is_dir() and not OTHER_YEARS.search(str(folder.relative_to(place)))
        )
        return list(dict.fromkeys(found))

    @cached_property
    def _images(self) -> list[Path]:
        return self._below("JPEGImages")

    @cached_property
    def _aug(self) -> list[Path]:
        """Folders with masks of more images than VOC's own."""
        return [] if self.train_masks == "SegmentationClass" else self._below(self.train_masks)

    @cached_property
    def _masks(self) -> list[Path]:
        """Folders of masks, the wanted ones first."""
        return [*self._aug, *self._below("SegmentationClass")]

    @cached_property
    def _sbd(self) -> list[Path]:
        return [folder for folder in self._below("cls") if any(folder.glob("*.mat"))]

    @cached_property
    def beside(self) -> dict[str, list[Path]]:
        """Folders of what else there may be of an image."""
        return {name: self._below(name) for name in ("SegmentationObject", "Annotations")}

    @cached_property
    def saliency(self) -> list[Path]:
        return self._below("Saliency")

    def image(self, id: str) -> Path | None:
        return _first(self._images, f"{id}.jpg")

    def mask(self, id: str) -> Path | None:
        """Its mask as PNG, else as SBD's MATLAB file."""
        return _first(self._masks, f"{id}.png") or _first(self._sbd, f"{id}.mat")

    @cached_property
    def lists(self) -> list[tuple[str, Path]]:
        """Split and file of every list of ids."""
        folders = [folder for path in LISTS for folder in self._below(path)]
        found = [
            (re.sub(r"^train_?aug$", "train_aug", file.stem.removesuffix("_id")), file)
            for folder in folders
            for file in sorted(folder.glob("*.txt"))
        ]
        # IRN's voc12 is a package with more than lists.
        return [(n, file) for n, file in found if n in SPLITS or file.parent.name != "voc12"]

    @cached_property
    def listed(self) -> dict[str, list[str]]:
        """Ids by split, as the lists say it."""
        found: dict[str, list[str]] = {}
        for name, file in self.lists:
            if ids := [Path(line.split()[0]).stem for line in _lines(file) if line.strip()]:
                found.setdefault(name, list(dict.fromkeys(ids)))
        return found

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Ids by split; train_aug, where no list says it, is all with a mask that is not in val."""
        files = [path for folder in [*self._aug, *self._sbd] for path in folder.iterdir()]
        more = {path.stem for path in files if path.suffix in (".png", ".mat")}
        if not more or "train_aug" in self.listed or not {"train", "val"} <= self.listed.keys():
            return self.listed
        ids = more.union(self.listed["train"]) - {*self.listed["val"]}
        return self.listed | {"train_aug": sorted(ids)}

    @property
    def lacks(self) -> list[str]:
        """Which archives would bring what is not there."""
        missing = []
        if not (self._images and self._masks and self.splits):
            missing.append("trainval")
        if not (self._aug or self._sbd) and self.train_masks != "SegmentationClass":
            missing.append("sbd")
        if not any(self.image(id) for id in self.splits.get("test", [])):
            missing.append("test")
        return missing


def _first(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise Refusal(f"{file}: not a list of ids; fetch it again") from None


def missing(source: VocSource, root: Path) -> dict[str, str]:
    """What must be fetched first, by archive; the test images only where they can be."""
    found = Layout(source.places(root), source.train_masks)
    wanted = [key for key in found.lacks if key != "test" or key in source.archives]
    where = dict.fromkeys(wanted, source.root)
    if found.lists and not found.listed:
        empty = ", ".join(str(file) for _, file in found.lists)
        where["trainval"] = f"{empty}: found no id in these lists; fetch them again"
    return {key: f"{where[key]}: {WHENCE[key].format(masks=source.train_masks)}" for key in wanted}


def inputs(source: VocSource, root: Path) -> list[Path]:
    """Files that half-done work depends on: none, for all of it is done again."""
    return []


class _Task(NamedTuple):
    """One image, and all files of it."""

    id: str
    splits: tuple[str, ...]
    image: Path
    mask: Path | None
    objects: Path | None
    annotation: Path | None


def build(
    source: VocSource,
    root: Path,
    folders: dict[str, PartialFolder],
    processes: int = 1,
    watched: Watched = unwatched,
) -> Built:
    """Link the images, rewrite the masks in the contract's ids, and read labels and splits."""
    if lines := missing(source, root):
        raise Refusal(f"VOC is not there yet: {'; '.join(lines.values())}")
    found = Layout(source.places(root), source.train_masks)
    tasks, left_out = _tasks(source, found)
    work = partial(_one, source, folders["images"], folders["masks"], folders["instances"])
    done = list(watched(in_order(work, tasks, processes), "prepare", len(tasks)))
    entries = [entry for entry, _ in done]
    origin = Counter(
        "SBD" if t.mask.suffix == ".mat" else t.mask.parent.name for t in tasks if t.mask
    )
    said = {"masks of": dict(sorted(origin.items())), **left_out}
    notes = Counter(note for _, noted in done for note in noted)
    said |= dict(sorted(notes.items()))
    if maps := [root / source.saliency] if source.saliency else found.saliency[:1]:
        said["saliency"] = saliency.add(maps[0], entries, folders["saliency"])
    return Built(entries, names(source), said)


def _tasks(source: VocSource, found: Layout) -> tuple[list[_Task], dict[str, str]]:
    """Every image of the lists; a test split of which no image is there is left out."""
    splits, said = dict(found.splits), {}
    if splits.keys() - found.listed.keys():
        said["train_aug"] = "made of all masks but those of val, for there is no list"
    if "test" in splits and not any(found.image(id) for id in splits["test"]):
        said["test"] = f"left out: none of its {len(splits.pop('test'))} images is there"
    of: dict[str, list[str]] = {}
    for name in sorted(splits):
        for id in splits[name]:
            of.setdefault(id, []).append(name)
    tasks = []
    for id, inside in sorted(of.items()):
        image, mask = found.image(id), found.mask(id)
        if image is None:
            raise Refusal(f"{id}.jpg: missing, expected the file of id '{id}' in JPEGImages")
        objects, annotation = (
            _first(found.beside[name], f"{id}.{ending}")
            for name, ending in (("SegmentationObject", "png"), ("Annotations", "xml"))
        )
        labelled = set(inside) - {"test"}
        if labelled and mask is None:
            raise Refusal(
                f"{id}.png: missing, expected the mask of id '{id}', which is in the split "
                f"{inside[0]}; without it the image would train as one that shows nothing"
            )
        if labelled and source.labels == "xml" and annotation is None:
            raise Refusal(
                f"{id}.xml: missing, expected the labels of id '{id}' in Annotations; fetch them, "
                "or set labels: masks"
            )
        tasks.append(_Task(id, tuple(inside), image, mask, objects, annotation))
    return tasks, said


def _one(
    source: VocSource,
    images: PartialFolder,
    masks: PartialFolder,
    instances: PartialFolder,
    task: _Task,
) -> tuple[Entry, list[str]]:
    """Write all of one image; return its row of the index, and what was odd about it."""
    id, notes = task.id, []
    link(task.image, images / f"{id}.jpg")
    size = pictures.whole_size(images / f"{id}.jpg")
    seen: tuple[int, ...] = ()
    if task.mask:
        mask, repaired = _mask(task.mask, size)
        notes += [f"repaired: {repaired}"] if repaired else []
        mask = _renumbering(source)[mask]
        counts = np.bincount(mask.ravel(), minlength=256)
        seen = tuple((np.flatnonzero(counts[1:VOID]) + 1).tolist())
        pictures.write_mask(masks / f"{id}.png", mask)
    if task.objects:
        objects = pictures.read_mask(task.objects)
        _sized(objects, size, task.objects)
        pictures.write_mask(instances / f"{id}.png", objects)
    labels = seen
    if source.labels == "xml":
        labels = _labels(task.annotation, source) if task.annotation else ()
        notes += ["labels differ from the mask"] if task.mask and labels != seen else []
    return Entry(id, *size, task.splits, labels), notes


def _mask(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, str | None]:
    """VOC's ids (H, W) uint8, from a PNG or from SBD's file, and what was repaired."""
    mask, repaired = (_matlab(path), None) if path.suffix == ".mat" else pictures.read_ids(path)
    _sized(mask, size, path)
    return checked_ids(mask, len(CLASSES), path), repaired


def _matlab(path: Path) -> np.ndarray:
    """The label map of SBD's `cls/<id>.mat`: GTcls.Segmentation."""
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["GTcls"])
        mask = content["GTcls"][0, 0]["Segmentation"]
        if mask.ndim != 2:
            raise ValueError(f"{mask.ndim} dimensions")
        return mask.astype(np.uint8)
    except Exception as error:  # whatever loadmat stumbles over in a broken file
        raise Refusal(f"{path}: not a mask of SBD ({error!r}); fetch benchmark.tgz again") from None


def _sized(mask: np.ndarray, size: tuple[int, int], path: Path) -> None:
    if mask.shape != size:
        raise Refusal(
            f"{path}: id '{path.stem}' is {mask.shape[1]}x{mask.shape[0]} here, its image "
            f"{size[1]}x{size[0]}; fetch both again"
        )


def _labels(path: Path, source: VocSource) -> tuple[int, ...]:
    """Ids of the classes of which an object is boxed, difficult and cut ones among them."""
    try:
        boxed = [node.findtext("name", "") for node in ElementTree.parse(path).iter("object")]
    except ElementTree.ParseError as error:
        raise Refusal(f"{path}: not VOC's XML ({error}); fetch it again") from None
    for name in boxed:
        if name not in CLASSES:
            raise Refusal(f"{path}: id '{path.stem}' shows '{name}', expected classes of VOC")
    chosen = names(source)
    return tuple(sorted({chosen.index(name) for name in boxed if name in chosen}))


def _renumbering(source: VocSource) -> np.ndarray:
    """(256,) VOC's ids → ours; classes left out become void."""
    chosen = names(source)[1:]
    table = np.full(256, VOID, np.uint8)
    table[0] = 0
    for new, name in enumerate(chosen, start=1):
        table[CLASSES.index(name) + 1] = new
    return table
