"""The user's own data: images, a CSV of their labels, and masks where there are some."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from fbr.datasets import saliency
from fbr.datasets.prepared import Built, Entry, checked_ids
from fbr.datasets.workers import Watched, unwatched
from fbr.errors import Refusal, nearest
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link
from fbr.files.tables import read_users_csv
from fbr.params import FolderSource

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FIRM = re.compile(r"[;,|]+")  # between labels in one cell
BETWEEN = re.compile(r"[;,|\s]+")  # between splits


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
        if source.masks:
            notes["masks"] += _mask(root / source.masks / f"{id}.png", size, names, folders)
        classes = tuple(sorted({names.index(name) for name in row["labels"]}))
        entries.append(Entry(id, *size, row["splits"], classes))
    if source.masks and not notes["masks"]:
        raise Refusal(
            f"{source.masks}: found no mask of any image, expected {entries[0].id}.png and the "
            "like; without masks, leave the key away"
        )
    found = {
        "images without a row, left out": len(files) - len(rows),
        **dict(sorted(notes.items())),
    }
    if source.saliency:
        found["saliency"] = saliency.add(root / source.saliency, entries, folders["saliency"])
    return Built(entries, names, found)


def _rows(source: FolderSource, table: Path) -> dict[str, dict]:
    """Labels and splits by id; every image is in `train` where the CSV has no splits."""
    found: dict[str, dict] = {}
    for number, row in read_users_csv(table):
        if row.get("id") is None or row.get("labels") is None:
            raise Refusal(
                f"{table}: line {number} has the columns {', '.join(map(str, row))}; expected id, "
                "labels, and split where there are several"
            )
        id = _stem(row["id"].strip())
        if not re.fullmatch(r"[\w.-]+", id) or id.startswith("."):
            raise Refusal(
                f"{table}: line {number}: found the id '{id}', expected the name of an image, of "
                "letters, digits, _, - and . alone; rename the file"
            )
        if id in found:
            raise Refusal(f"{table}: line {number}: id '{id}' is there twice; keep one row")
        splits = tuple(filter(None, BETWEEN.split(row.get("split") or "train")))
        labels = _labels(row["labels"], source.classes or [])
        if "background" in labels:
            raise Refusal(
                f"{table}: line {number}: found the label 'background', which every image has; "
                "leave it away, or give the class another name"
            )
        found[id] = {"labels": labels, "splits": splits, "line": number}
    if not found:
        raise Refusal(f"{table}: no rows, expected the columns id, labels")
    return found


def _labels(cell: str, classes: list[str]) -> list[str]:
    """Names with ; or | between them, else with spaces; a class may have spaces in its name."""
    cell = cell.strip()
    if cell in classes:
        return [cell]
    parts = FIRM.split(cell) if FIRM.search(cell) else cell.split()
    return [name for part in parts if (name := part.strip())]


def _stem(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in ENDINGS else name


def _names(source: FolderSource, rows: dict[str, dict], table: Path) -> list[str]:
    """Class names by id."""
    used = sorted({name for row in rows.values() for name in row["labels"]})
    if source.classes is None:
        if source.masks:
            raise Refusal(
                "params.yaml: classes: missing, expected the names of the ids 1, 2, … in the masks"
            )
        if not used:
            raise Refusal(f"{table}: no image has a label, expected some under 'labels'")
        return ["background", *used]
    if len({"background", *source.classes}) <= len(source.classes):
        raise Refusal(
            f"params.yaml: classes: found {', '.join(source.classes)}, expected each class once, "
            "and no background, which has the id 0"
        )
    for name in used:
        if name not in source.classes:
            raise Refusal(
                f"{table}: found the label '{name}', expected one of {', '.join(source.classes)}."
                f"{nearest(name, source.classes)}"
            )
    return ["background", *source.classes]


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS:
            if path.stem in found:
                raise Refusal(
                    f"{path}: {found[path.stem].name} has the same id; rename one of them"
                )
            found[path.stem] = path
    return found


def _image(file: Path, target: Path) -> str | None:
    """Link a JPEG, convert what is none or lies on its side; say what was done."""
    image, upright = pictures.read_upright(file), pictures.is_upright(file)
    if upright and file.suffix.lower() in (".jpg", ".jpeg"):
        link(file, target)
        return None
    pictures.write_jpeg(target, image)
    return "images converted to JPEG" if upright else "images turned upright"


def _mask(
    file: Path, size: tuple[int, int], names: list[str], folders: dict[str, PartialFolder]
) -> bool:
    """Take over the mask of an image, if there is one."""
    if not file.is_file():
        return False
    mask = pictures.read_mask(file)
    if mask.shape != size:
        raise Refusal(
            f"{file}: id '{file.stem}' is {mask.shape[1]}x{mask.shape[0]} here, its image "
            f"{size[1]}x{size[0]}; give it a mask of its size"
        )
    mask = checked_ids(mask, len(names) - 1, file)
    pictures.write_mask(folders["masks"] / file.name, np.ascontiguousarray(mask))
    return True
