"""A trained network on any photographs, by the code of the stage that evaluates such networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fbr import __version__, params, pipeline
from fbr.datasets.prepared import Entry
from fbr.errors import Refusal, chosen, one_of
from fbr.files import pictures
from fbr.files.atomic import write_bytes
from fbr.files.resume import fingerprint
from fbr.files.tables import read_json, write_json
from fbr.show import overlays
from fbr.stages import finders, given
from fbr.stages.finders import EVALUATION, FINDERS, Finder
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import code, log
from fbr.workspace import Workspace

UNUSED = {"split", "also"}  # of an evaluation: which images it is on, and what else it scores


@dataclass(frozen=True)
class Asked:
    """What a user may choose. numbers: in place of those of the evaluation. classes: names."""

    folder: Path
    batch: int
    format: str | None
    overlays: bool
    classes: list[str]
    numbers: dict[str, Any]


def predict(
    model: Path,
    entries: list[Entry],
    paths: dict[str, Path],
    asked: Asked,
    workspace: Workspace,
) -> None:
    """Write what the network finds in every photograph; what is there already is not done again."""
    described = given.described(model)
    stage = trained_by(model, described)
    formats = FINDERS[stage]
    kind = chosen(formats, asked.format or next(iter(formats)), f"--format of a {stage} network")
    numbers = numbers_of(model, stage, workspace, asked.numbers)
    shown = _ids(asked.classes, stage, described["classes"])
    told = numbers.model_dump_json(exclude=UNUSED)
    network = (model, model.with_name("model.json"))
    place = Place(asked, kind, fingerprint(told, shown, *network, *code()), paths)
    todo = [e for e in entries if not place.has(e, paths[e.id])]
    log.info("predict: %d of %d images to do", len(todo), len(entries))
    if todo:
        finder = finders.load(model, kind, numbers, shown)
        place.begin(model, described, numbers)
        seen = _seen(finder, todo, paths, asked.batch)
        for entry, image, found in counted(seen, "predict", len(todo)):
            place.put(finder, entry, image, found)
    place.merge()


def tile(model: Path, entry: Entry, image: np.ndarray, workspace: Workspace) -> np.ndarray:
    """One image (H, W, 3) with what a network of the workspace finds in it laid over."""
    stage = trained_by(model, given.described(model))
    kind, *_ = FINDERS[stage].values()
    finder = finders.load(model, kind, numbers_of(model, stage, workspace, {}), [])
    (found,) = finder.look([entry], image[None])
    return finder.tile(image, found)


def trained_by(model: Path, described: dict) -> str:
    """The stage that trained a network, if it can be applied to a photograph alone."""
    stage = described.get("stage")
    if stage not in FINDERS:
        raise Refusal(
            f"{model}: found a network of stage '{stage}', which is told more than an image; "
            f"expected one of {', '.join(FINDERS)}"
        )
    return stage


def numbers_of(model: Path, stage: str, workspace: Workspace, changed: dict[str, Any]) -> Any:
    """The numbers that params.yaml evaluates this very network with; plain ones for any other."""
    if idle := UNUSED.intersection(changed):
        raise Refusal(f"--set: found '{min(idle)}', which chooses images; name them instead")
    evaluation, (kind, *_) = EVALUATION[stage], FINDERS[stage].values()
    numbers, where = kind.alone, "one plain look"
    if (axes := _axes(model, workspace)) is not None:
        numbers = params.load(workspace.params).of(evaluation, axes)
        where = f"{evaluation} of params.yaml"
    numbers = params.check(numbers.model_dump() | changed, type(numbers), "--set")
    told = numbers.model_dump(exclude=UNUSED)
    log.info("numbers: %s (%s)", ", ".join(f"{k} {v}" for k, v in told.items()), where)
    return numbers


def _axes(model: Path, workspace: Workspace) -> dict[str, str] | None:
    """The names on a network's path; None for one that params.yaml does not know."""
    path, root = model.resolve(), workspace.root.resolve()
    if not (path.is_relative_to(root / "results") and workspace.params.is_file()):
        return None
    stages, blocks = pipeline.load(workspace.pipeline), params.read(workspace.params)
    try:
        return pipeline.writer(str(path.relative_to(root)), stages, blocks)[1]
    except Refusal:
        return None


def _ids(names: list[str], stage: str, classes: list[str]) -> list[int]:
    if names and stage != "cam_train":
        raise Refusal(f"--class: a network of {stage} finds the classes itself; leave it out")
    return sorted({classes.index(one_of(classes[1:], name, "--class")) for name in names})


class Place:
    """The folder of results; each file is there whole or not at all, and younger than its image."""

    def __init__(self, asked: Asked, kind: type[Finder], key: str, paths: dict[str, Path]) -> None:
        self.folder, self.kind, self.key = asked.folder, kind, key
        self.images = {id: str(path.resolve()) for id, path in paths.items()}
        self.patterns = [kind.file, *(["overlays/{id}.jpg"] if asked.overlays else [])]
        self.note = self.folder / "predict.json"
        if self.note.is_file():
            earlier = read_json(self.note)
            if earlier.get("key") != key:
                raise Refusal(
                    f"{self.folder}: found results of another network, of other numbers or of "
                    "another version; remove it, or name another folder (--out)"
                )
            for id, known in earlier["images"].items():
                if self.images.setdefault(id, known) != known:
                    raise Refusal(
                        f"{self.folder}: found what is in {known}, which has the name of "
                        f"{self.images[id]}; name another folder (--out)"
                    )
        elif self.folder.exists() and not (self.folder.is_dir() and self._unused()):
            raise Refusal(
                f"{self.folder}: found other things here, expected an empty or a new folder (--out)"
            )

    def _unused(self) -> bool:
        """Whether the folder is empty, but for a note that a kill left half-written."""
        return all(path.name == f"{self.note.name}.partial" for path in self.folder.iterdir())

    def has(self, entry: Entry, photograph: Path) -> bool:
        """Whether an earlier run wrote everything about the photograph as it is now."""
        changed = photograph.stat().st_ctime_ns
        files = [self.folder / pattern.format(id=entry.id) for pattern in self.patterns]
        return all(f.is_file() and f.stat().st_mtime_ns >= changed for f in files)

    def begin(self, model: Path, described: dict, numbers: Any) -> None:
        """Say what the folder holds before anything is in it."""
        note = {
            "key": self.key,
            "model": str(model),
            "stage": described["stage"],
            **numbers.model_dump(mode="json", exclude=UNUSED),
            "classes": dict(enumerate(described["classes"])),
            "images": self.images,
            "fbr": __version__,
        }
        write_json(self.note, note)

    def put(self, finder: Finder, entry: Entry, image: np.ndarray, found: Any) -> None:
        """Write the files of one photograph."""
        file, *picture = (self.folder / pattern.format(id=entry.id) for pattern in self.patterns)
        finder.write(file, entry, found)
        for drawn in picture:
            write_bytes(drawn, overlays.to_jpeg_bytes(finder.tile(image, found)))

    def merge(self) -> None:
        """Put the records of all photographs in one file; clear what a kill left half-written."""
        for leftover in self.folder.rglob("*.partial"):
            leftover.unlink()
        if self.kind.merged:
            parts = sorted(self.folder.glob(self.kind.file.format(id="*")))
            records = [record for part in parts for record in read_json(part)]
            write_json(self.folder / self.kind.merged, records)


def _seen(
    finder: Finder, todo: list[Entry], paths: dict[str, Path], batch: int
) -> Iterator[tuple[Entry, np.ndarray, Any]]:
    """Images with what is found in them."""
    for entries, images in _alike(todo, paths, batch):
        try:
            found = finder.look(entries, images)
        except torch.OutOfMemoryError:
            height, width = images.shape[1:3]
            raise Refusal(
                f"{paths[entries[0].id]}: {len(entries)} images of {width}x{height} do not fit "
                "into the GPU's memory at once; choose a smaller --batch, or smaller scales (--set)"
            ) from None
        yield from zip(entries, images, found, strict=True)


def _alike(
    todo: list[Entry], paths: dict[str, Path], batch: int
) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """At most `batch` photographs of one size at a time, (N, H, W, 3) uint8."""

    def size(entry: Entry) -> tuple[int, int]:
        return entry.height, entry.width

    def read(entry: Entry) -> np.ndarray:
        return pictures.read_upright(paths[entry.id])

    ahead = read_ahead(sorted(todo, key=size), read)
    for _, alike in groupby(ahead, lambda pair: size(pair[0])):
        while some := list(islice(alike, batch)):
            yield [entry for entry, _ in some], np.stack([image for _, image in some])
