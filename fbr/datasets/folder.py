"""The user's own data: images, a CSV of their labels, and masks where there are some."""

import re
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import numpy as np

from fbr.datasets import saliency
from fbr.datasets.prepared import VOID, Built, Entry, checked_ids
from fbr.datasets.workers import Watched, unwatched
from fbr.errors import Refusal, nearest
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link
from fbr.files.tables import read_users_csv
from fbr.params import FolderSource

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FIRM = re.compile(r"[;,|]+")  # between labels in one cell
BETWEEN = re.compile(r"[;,|\s]+")  # between splits
# What an id may not hold: it is part of file names, of patterns and of MLflow's paths.
ODD = re.compile(r"^\.|[/\\*?\[\]#%\x00-\x1f\x7f-\x9f]")


def missing(source: FolderSource, root: Path) -> dict[str, str]:
    """What of the paths in params.yaml is not there."""
    paths = {"images": source.images, "table": source.table}
    paths |= {"masks": source.masks} if source.masks else {}
    said = {"images": "a folder of images", "table": "a CSV of id and labels", "masks": "a folder"}
    found = {}
    for key, path in paths.items():
        place = root / path
        if not (place.is_file() if key == "table" else place.is_dir()):
            instead = "is not" if place.exists() else "no such path, expected"
            found[key] = f"{path}: {instead} {said[key]}"
    return found


def inputs(source: FolderSource, root: Path) -> list[Path]:
    """Files that half-done work depends on: none, for all of it is done again."""
    return []


def build(
    source: FolderSource,
    root: Path,
    folders: dict[str, PartialFolder],
    processes: int = 1,
    watched: Watched = unwatched,
) -> Built:
    """Link or convert the images of the CSV; an image without labels shows no class."""
    if lines := missing(source, root):
        raise Refusal("; ".join(lines.values()))
    table = root / source.table
    rows = _rows(source, table)
    names = _names(source, rows, table)
    files = _files(root / source.images)
    masks = _masks(root, source.masks, rows) if source.masks else {}
    entries, notes = [], Counter()
    for id, row in watched(rows.items(), "prepare", len(rows)):
        if id not in files:
            raise Refusal(
                f"{table}: line {row['line']}: no image of id '{id}' in {source.images}, expected "
                f"{id}.jpg or the like.{nearest(id, files)}"
            )
        target = folders["images"] / f"{id}.jpg"
        if note := _image(files[id], target):
            notes[note] += 1
        size = pictures.read_size(target)
        if id in masks:
            _mask(masks[id], folders["masks"] / f"{id}.png", size, names)
            notes["masks"] += 1
        classes = tuple(sorted({names.index(name) for name in row["labels"]}))
        entries.append(Entry(id, *size, row["splits"], classes))
    found = {
        "classes": ", ".join(names[1:]),
        "images without a row, left out": len(files) - len(rows),
        **dict(sorted(notes.items())),
        **_partly(entries, masks),
    }
    if source.saliency:
        found["saliency"] = saliency.add(root / source.saliency, entries, folders["saliency"])
    return Built(entries, names, found)


def _rows(source: FolderSource, table: Path) -> dict[str, dict]:
    """Labels and splits by id; every image is in `train` where the CSV has no splits."""
    found: dict[str, dict] = {}
    listed = list(read_users_csv(table))
    firm = any(FIRM.search(row.get("labels") or "") for _, row in listed)
    for number, row in listed:
        if lacking := [name for name in ("id", "labels") if row.get(name) is None]:
            raise Refusal(
                f"{table}: line {number} has nothing in the column {lacking[0]}; expected id, "
                "labels, and split where there are several"
            )
        id = _stem(_composed(row["id"]))
        if not id or ODD.search(id):
            raise Refusal(
                f"{table}: line {number}: found the id {id!r}, expected the name of an image, "
                "without a dot in front and without / \\ * ? [ ] # %; rename the file"
            )
        if id in found:
            raise Refusal(f"{table}: line {number}: id '{id}' is there twice; keep one row")
        splits = tuple(filter(None, BETWEEN.split(row.get("split") or "train")))
        labels = _labels(row["labels"], firm, source.classes or [])
        if "background" in labels:
            raise Refusal(
                f"{table}: line {number}: found the label 'background', which every image has; "
                "leave it away, or give the class another name"
            )
        found[id] = {"labels": labels, "splits": splits, "line": number}
    if not found:
        raise Refusal(f"{table}: no rows, expected the columns id, labels")
    return found


def _labels(cell: str, firm: bool, classes: list[str]) -> list[str]:
    """Names with ; or | between them where any cell of the column has one, else with spaces."""
    cell = _composed(cell)
    if cell in map(_composed, classes):  # one name that may have spaces
        return [cell]
    parts = FIRM.split(cell) if firm else cell.split()
    return [name for part in parts if (name := part.strip())]


def _composed(text: str) -> str:
    """A name in the one form of its accents: file systems and editors write them in two."""
    return normalize("NFC", text.strip())


def _stem(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in ENDINGS else name


def _names(source: FolderSource, rows: dict[str, dict], table: Path) -> list[str]:
    """Class names by id."""
    names = _named(source, rows, table)
    if len(names) > VOID:
        where = table if source.classes is None else "params.yaml: classes"
        raise Refusal(
            f"{where}: found {len(names) - 1} classes, expected at most {VOID - 1}: ids are of 8 "
            f"bits, 0 is the background and {VOID} is void"
        )
    return names


def _named(source: FolderSource, rows: dict[str, dict], table: Path) -> list[str]:
    used = sorted({name for row in rows.values() for name in row["labels"]})
    if source.classes is None:
        if source.masks:
            raise Refusal(
                "params.yaml: classes: missing, expected the names of the ids 1, 2, … in the masks"
            )
        if not used:
            raise Refusal(f"{table}: no image has a label, expected some under 'labels'")
        for name in used:
            if " " in name and {*name.split()} <= {*used}:
                raise Refusal(
                    f"{table}: found the label '{name}', and its words as labels of their own; put "
                    "; between them as elsewhere in the table, or name the classes in params.yaml"
                )
        return ["background", *used]
    classes = [_composed(name) for name in source.classes]
    if len({"background", *classes}) <= len(classes):
        raise Refusal(
            f"params.yaml: classes: found {', '.join(classes)}, expected each class once, "
            "and no background, which has the id 0"
        )
    for name in used:
        if name not in classes:
            raise Refusal(
                f"{table}: found the label '{name}', expected one of {', '.join(classes)}."
                f"{nearest(name, classes)}"
            )
    return ["background", *classes]


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS:
            id = _composed(path.stem)
            if id in found:
                raise Refusal(f"{path}: {found[id].name} has the same id; rename one of them")
            found[id] = path
    return found


def _masks(root: Path, folder: str, rows: dict[str, dict]) -> dict[str, Path]:
    """Masks by id; a folder that has none of any image is refused."""
    files = sorted(path.name for path in (root / folder).iterdir())
    found = {_composed(name[:-4]): root / folder / name for name in files if name.endswith(".png")}
    if not found.keys() & rows.keys():
        first = f", the first of which is {files[0]}" if files else ""
        raise Refusal(
            f"{folder}: found no mask of any image among {len(files)} files{first}; expected "
            f"{next(iter(rows))}.png and the like; without masks, leave the key away"
        )
    return found


def _partly(entries: list[Entry], masks: dict[str, Path]) -> dict[str, str]:
    """Splits of which some images have masks and some have none."""
    found = {}
    for split in sorted({split for entry in entries for split in entry.splits}):
        has = [entry.id in masks for entry in entries if split in entry.splits]
        if any(has) and not all(has):
            found[f"masks of {split}"] = (
                f"{sum(has)} of {len(has)}, so the split cannot be scored; to score these, give "
                "them a split of their own"
            )
    return found


def _image(file: Path, target: Path) -> str | None:
    """Link a JPEG, convert what is none or lies on its side; say what was done."""
    image, upright = pictures.read_upright(file), pictures.is_upright(file)
    if upright and file.suffix.lower() in (".jpg", ".jpeg"):
        link(file, target)
        return None
    pictures.write_jpeg(target, image)
    return "images converted to JPEG" if upright else "images turned upright"


def _mask(file: Path, target: Path, size: tuple[int, int], names: list[str]) -> None:
    """Take over the mask of an image."""
    mask = pictures.read_mask(file)
    if mask.shape != size:
        raise Refusal(
            f"{file}: id '{file.stem}' is {mask.shape[1]}x{mask.shape[0]} here, its image "
            f"{size[1]}x{size[0]}; give it a mask of its size"
        )
    mask = checked_ids(mask, len(names) - 1, file)
    pictures.write_mask(target, np.ascontiguousarray(mask))
