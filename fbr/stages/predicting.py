"""A trained network on any photographs, by the code of the stage that evaluates such networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fbr import __version__, params, pipeline
from fbr.datasets.prepared import Entry
from fbr.errors import Refusal, chosen, one_of
from fbr.files import maps, pictures
from fbr.files.atomic import write_bytes
from fbr.files.resume import fingerprint
from fbr.files.tables import read_json, write_json
from fbr.masks.instances import encode
from fbr.nets.inference import multi_scale
from fbr.params import CamInfer, SegEval, WsisEval
from fbr.show import overlays
from fbr.stages import networks
from fbr.stages.activation import strided
from fbr.stages.detecting import detect
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import code, log
from fbr.stages.overlays import cam_tile, instance_tile
from fbr.stages.segmenting import applied, segment
from fbr.train.processes import device
from fbr.workspace import Workspace

SPLIT = "any"  # no stage's: the numbers of an evaluation want one
UNUSED = {"split", "also"}  # of an evaluation: which images it is on, and what else it scores


class Finder:
    """A network with the numbers it is applied with, and the file that holds what it finds.

    alone: the numbers of a network that params.yaml does not know. merged: the file that all those
    of single images are put together in, if they are.
    """

    alone: Any
    file: str
    merged: str | None = None

    def __init__(self, network: nn.Module, described: dict, numbers: Any, shown: list[int]) -> None:
        """shown: classes that every image is told to show; nothing if the network is to tell."""
        self.network, self.numbers, self.shown = network, numbers, shown
        self.bfloat16 = described["bfloat16"]

    def look(self, entries: list[Entry], images: np.ndarray) -> list[Any]:
        """What is found in each of the images (N, H, W, 3) uint8."""
        raise NotImplementedError

    def write(self, file: Path, entry: Entry, found: Any) -> None:
        raise NotImplementedError

    def tile(self, image: np.ndarray, found: Any) -> np.ndarray:
        """The image (H, W, 3) with what was found laid over it."""
        raise NotImplementedError


class Masks(Finder):
    """Ids of every pixel as a palette PNG."""

    alone = SegEval(split=SPLIT, scales=[1.0], flip=False, crf=None)
    file = "masks/{id}.png"

    def __init__(self, network: nn.Module, described: dict, numbers: Any, shown: list[int]) -> None:
        super().__init__(applied(network, numbers, described), described, numbers, shown)

    def look(self, entries: list[Entry], images: np.ndarray) -> list[np.ndarray]:
        (masks,) = segment(self.network, images, [self.numbers], self.bfloat16)
        return list(masks)

    def write(self, file: Path, entry: Entry, found: np.ndarray) -> None:
        pictures.write_mask(file, found)

    def tile(self, image: np.ndarray, found: np.ndarray) -> np.ndarray:
        return overlays.mask_overlay(image, found)


class RunLengths(Masks):
    """The same as COCO records, one a class that is seen."""

    file, merged = ".parts/{id}.json", "masks.json"

    def write(self, file: Path, entry: Entry, found: np.ndarray) -> None:
        ids = np.unique(found[found > 0]).tolist()
        records = [
            {"image_id": entry.id, "category_id": id, "segmentation": encode(found == id)}
            for id in ids
        ]
        write_json(file, records)


class Activations(Finder):
    """Maps of the classes that are told or recognised, in the format of cam_infer."""

    alone = CamInfer(split=SPLIT, scales=[1.0], flip=False)
    file = "cams/{id}.npz"

    def look(self, entries: list[Entry], images: np.ndarray) -> list[maps.Maps]:
        mean = partial(
            multi_scale,
            images=images,
            scales=self.numbers.scales,
            flip=self.numbers.flip,
            device=device(),
            bfloat16=self.bfloat16,
        )
        found = mean(self.network.maps, size=strided(entries[0]))
        if self.shown:
            ids = [torch.tensor(self.shown, device=found.device)] * len(entries)
        else:
            scores = mean(
                lambda views: self.network.recognise(views)[:, :, None, None], size=(1, 1)
            )
            ids = [1 + torch.nonzero(row > 0).flatten() for row in scores.flatten(1)]
        rows = zip(entries, found, ids, strict=True)
        return [self._maps(entry, seen, keys) for entry, seen, keys in rows]

    def _maps(self, entry: Entry, found: Tensor, keys: Tensor) -> maps.Maps:
        cam = self.network.finish(found, keys).cpu().numpy()
        return maps.Maps(keys.cpu().numpy(), cam, (entry.height, entry.width))

    def write(self, file: Path, entry: Entry, found: maps.Maps) -> None:
        maps.write(file, found)

    def tile(self, image: np.ndarray, found: maps.Maps) -> np.ndarray:
        return cam_tile(image, found.cam)


class Detections(Finder):
    """Instances as COCO records with scores."""

    alone = WsisEval(split=SPLIT, score=0.05, detections=100)
    file, merged = ".parts/{id}.json", "detections.json"

    def look(self, entries: list[Entry], images: np.ndarray) -> list[list[dict]]:
        return [detect(self.network, e.id, i) for e, i in zip(entries, images, strict=True)]

    def write(self, file: Path, entry: Entry, found: list[dict]) -> None:
        write_json(file, found)

    def tile(self, image: np.ndarray, found: list[dict]) -> np.ndarray:
        return instance_tile(image, found)


# Stage that trained the network → format → what is written; the first format is the default.
FINDERS: dict[str, dict[str, type[Finder]]] = {
    "seg_train": {"png": Masks, "rle": RunLengths},
    "cam_train": {"npz": Activations},
    "wsis_train": {"rle": Detections},
}
EVALUATION = {"seg_train": "seg_eval", "cam_train": "cam_infer", "wsis_train": "wsis_eval"}


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
    described = read_json(model.with_name("model.json"))
    stage = trained_by(model, described)
    formats = FINDERS[stage]
    kind = chosen(formats, asked.format or next(iter(formats)), f"--format of a {stage} network")
    numbers = numbers_of(model, stage, workspace, asked.numbers)
    shown = _ids(asked.classes, stage, described["classes"])
    told = numbers.model_dump_json(exclude=UNUSED)
    place = Place(asked, kind, fingerprint(told, shown, model, *code()))
    todo = [e for e in entries if not place.has(e, paths[e.id])]
    log.info("predict: %d of %d images to do", len(todo), len(entries))
    if todo:
        finder = load(model, kind, numbers, shown)
        place.begin(model, described, numbers)
        seen = _seen(finder, todo, paths, asked.batch)
        for entry, image, found in counted(seen, "predict", len(todo)):
            place.put(finder, entry, image, found)
    place.merge()


def tile(model: Path, entry: Entry, image: np.ndarray, workspace: Workspace) -> np.ndarray:
    """One image (H, W, 3) with what a network of the workspace finds in it laid over."""
    stage = trained_by(model, read_json(model.with_name("model.json")))
    finder = load(
        model, next(iter(FINDERS[stage].values())), numbers_of(model, stage, workspace, {}), []
    )
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


def load(model: Path, kind: type[Finder], numbers: Any, shown: list[int]) -> Finder:
    """The network, ready to look at images."""
    limits = {}
    if isinstance(numbers, WsisEval):
        limits = {"score": numbers.score, "detections": numbers.detections}
    network, described = networks.load(model, device(), **limits)
    return kind(network, described, numbers, shown)


def numbers_of(model: Path, stage: str, workspace: Workspace, changed: dict[str, Any]) -> Any:
    """The numbers that params.yaml evaluates this very network with; plain ones for any other."""
    evaluation, (kind, *_) = EVALUATION[stage], FINDERS[stage].values()
    numbers, where = kind.alone, "one plain look"
    if (axes := _axes(model, workspace)) is not None:
        numbers = params.load(workspace.params).of(evaluation, axes)
        where = f"{evaluation} of params.yaml"
    raw = numbers.model_dump() | changed
    numbers = params.check(raw, type(numbers), "--set")
    told = numbers.model_dump(exclude=UNUSED)
    log.info("numbers: %s (%s)", ", ".join(f"{k} {v}" for k, v in told.items()), where)
    return numbers


def _axes(model: Path, workspace: Workspace) -> dict[str, str] | None:
    """The names on a network's path; None for one that is no result of this workspace."""
    try:
        path = model.resolve().relative_to(workspace.root.resolve())
        stages, blocks = pipeline.load(workspace.pipeline), params.read(workspace.params)
        return pipeline.writer(str(path), stages, blocks)[1]
    except (ValueError, Refusal):
        return None


def _ids(names: list[str], stage: str, classes: list[str]) -> list[int]:
    if names and stage != "cam_train":
        raise Refusal(f"--class: a network of {stage} finds the classes itself; leave it out")
    return sorted({classes.index(one_of(classes[1:], name, "--class")) for name in names})


class Place:
    """The folder of results; each file is there whole or not at all, and younger than its image."""

    def __init__(self, asked: Asked, kind: type[Finder], key: str) -> None:
        self.folder, self.kind, self.key = asked.folder, kind, key
        self.patterns = [kind.file, *(["overlays/{id}.jpg"] if asked.overlays else [])]
        self.note = self.folder / "predict.json"
        if self.note.is_file():
            if read_json(self.note).get("key") != key:
                raise Refusal(
                    f"{self.folder}: found results of another network, of other numbers or of "
                    "another version; remove it, or name another folder (--out)"
                )
        elif self.folder.exists() and not (self.folder.is_dir() and _empty(self.folder)):
            raise Refusal(
                f"{self.folder}: found other things here, expected an empty or a new folder (--out)"
            )

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


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _seen(
    finder: Finder, todo: list[Entry], paths: dict[str, Path], batch: int
) -> Iterator[tuple[Entry, np.ndarray, Any]]:
    """Images with what is found in them; those of one size are looked at together."""

    def size(entry: Entry) -> tuple[int, int]:
        return entry.height, entry.width

    alike = [list(group) for _, group in groupby(sorted(todo, key=size), size)]
    groups = [g[i : i + batch] for g in alike for i in range(0, len(g), batch)]

    def read(group: list[Entry]) -> np.ndarray:
        return np.stack([pictures.read_upright(paths[entry.id]) for entry in group])

    for group, images in read_ahead(groups, read):
        try:
            found = finder.look(group, images)
        except torch.OutOfMemoryError:
            height, width = size(group[0])
            raise Refusal(
                f"{paths[group[0].id]}: {len(group)} images of {width}x{height} do not fit into "
                "the GPU's memory at once; choose a smaller --batch, or smaller scales (--set)"
            ) from None
        yield from zip(group, images, found, strict=True)
