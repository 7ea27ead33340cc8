"""What a user names on the command line: a trained network, and photographs. Needs no torch."""

import glob
from pathlib import Path
from typing import Any

from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.tables import read_json

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def described(model: Path) -> dict[str, Any]:
    """The model.json beside a network's weights, if it tells what is asked of every network."""
    file = model.with_name("model.json")
    found = read_json(file)
    known = found if isinstance(found, dict) else {}
    for key in ("stage", "classes", "network"):
        if key not in known:
            raise Refusal(f"{file}: no '{key}' in it; it describes no network, train again")
    return known


def model(name: str) -> Path:
    """The weights of a network named by its file, its folder, or the folder of its result."""
    path = Path(name)
    if path.is_file():
        if path.name in ("model.safetensors", "model.json"):
            return path.with_name("model.safetensors")
        raise Refusal(f"{name}: found no network, expected a model.safetensors or its folder")
    found = [p for p in (path / "model.safetensors",) if p.is_file()]
    found = found or sorted(path.glob("*_train/model.safetensors"))
    if not found:
        raise Refusal(
            f"{name}: found no network, expected a model.safetensors that a *_train stage wrote, "
            "or its folder"
        )
    if len(found) > 1:
        names = ", ".join(p.parent.name for p in found)
        raise Refusal(f"{name}: found the networks of {names}; name one of them")
    return found[0]


def photographs(names: list[str]) -> tuple[list[Entry], dict[str, Path]]:
    """Every image of the named files, folders and patterns, and the path of each by id.

    An id is the stem of a file, a size that of the image as viewers show it. Each header is read,
    so that what is no image is refused before any work begins.
    """
    paths: dict[str, Path] = {}
    for path in (path for name in names for path in _files(name)):
        other = paths.setdefault(path.stem, path)
        if other.resolve() != path.resolve():
            raise Refusal(
                f"{path}: found '{path.stem}' twice, also as {other}; results are named by it, so "
                "give them folders of their own (--out)"
            )
    entries = [Entry(id, *pictures.upright_size(path), (), ()) for id, path in paths.items()]
    return entries, paths


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise Refusal(f"{name}: found no image in this folder, expected {', '.join(SUFFIXES)}")
        return found
    if path.is_file():
        return [path]
    found = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
    if not found:
        raise Refusal(f"{name}: found no such file, expected an image, a folder or a pattern")
    return found
