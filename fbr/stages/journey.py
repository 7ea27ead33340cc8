"""One image through every stage behind a result: what each made of it, as far as it is there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fbr import params, pipeline
from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal, nearest
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.show import overlays
from fbr.stages.overlays import cam_tile
from fbr.workspace import AXES, PATHS, Workspace

Instance = tuple[str, dict[str, str]]  # a stage and its axes


@dataclass(frozen=True)
class Step:
    """One picture on the way, and the file that it shows."""

    title: str
    tile: np.ndarray
    source: Path


def instance(run: str, workspace: Workspace) -> Instance:
    """The stage instance that a result path or the id of a tracking run names.

    A folder stands for the last stage that has run in it.
    """
    path = Path(run)
    if path.exists():
        found = _of_path(path, workspace)
    else:
        found = _of_run(run, workspace)
    if found is None:
        raise Refusal(
            f"{run}: found no result, expected a path as results/<data>/<seed>/<cam>/…, or the id "
            "of a tracking run whose result is here"
        )
    return found


def _of_path(path: Path, workspace: Workspace) -> Instance | None:
    try:
        parts = path.resolve().relative_to(workspace.root.resolve()).parts
    except ValueError:
        return None
    stages, blocks = pipeline.load(workspace.pipeline), params.read(workspace.params)
    found = None
    for stage in stages:
        beside = "/".join(["results", *(f"{{{a}}}" for a in AXES if a in stage.axes), stage.name])
        for pattern in [*stage.writes, beside]:
            axes = _axes(pattern.split("/"), parts)
            known = set(stage.axes) == set(axes or ()) and all(
                name in pipeline.names(stage, axis, blocks) for axis, name in axes.items()
            )
            if known and any(p.exists() for p in workspace.outputs(stage.name, axes).values()):
                found = stage.name, {axis: axes[axis] for axis in stage.axes}
    return found


def _axes(pattern: list[str], parts: tuple[str, ...]) -> dict[str, str] | None:
    """Names on as much of a path as both have; None where they part."""
    axes = {}
    for asked, said in zip(pattern, parts, strict=False):
        if field := pipeline.FIELD.fullmatch(asked):
            axes[field[1]] = said
        elif asked != said:
            return None
    return axes


def _of_run(run: str, workspace: Workspace) -> Instance | None:
    for file in sorted((workspace.root / "results").rglob("run.json")):
        record = read_json(file)
        if record.get("mlflow_run") == run:
            return record["stage"], {axis: record[axis] for axis in AXES if axis in record}
    return None


def chosen(data: Prepared, behind: list[Instance], workspace: Workspace, id: str | None) -> Entry:
    """The image to show: the one that is named, else the first that has maps, else the first."""
    if id is not None:
        entry = next((e for e in data.entries if e.id == id), None)
        if entry is None:
            ids = [e.id for e in data.entries]
            raise Refusal(f"--image: found no '{id}' in the index.{nearest(id, ids)}")
        return entry
    cams = [workspace.path(s, "cams", axes) for s, axes in behind if "cams" in PATHS[s]]
    with_maps = (e for e in data.entries if all((c / f"{e.id}.npz").is_file() for c in cams[-1:]))
    return next(with_maps, data.entries[0])


def behind(of: Instance, workspace: Workspace) -> list[Instance]:
    """Every stage instance that a result comes from, in the order in which they ran."""
    stages, blocks = pipeline.load(workspace.pipeline), params.read(workspace.params)
    stage, axes = of
    path = next(iter(workspace.outputs(stage, axes).values())).relative_to(workspace.root)
    return [(s.name, names) for s, names in pipeline.upstream(str(path), stages, blocks)]


def steps(
    entry: Entry, data: Prepared, behind: list[Instance], workspace: Workspace
) -> Iterator[Step]:
    """The image, what each stage made of it, and the truth; what is not there is left out.

    Maps and predictions are mostly of different splits, so a trained network is applied where its
    evaluation was not.
    """
    image = data.image(entry)
    yield Step("image", image, data.folder / "images" / f"{entry.id}.jpg")
    for stage, axes in behind:
        yield from _made(stage, axes, entry, image, workspace)
    if data.has("masks", entry):
        source = data.folder / "masks" / f"{entry.id}.png"
        yield Step("truth", overlays.mask_overlay(image, data.mask(entry)), source)


def _made(
    stage: str, axes: dict[str, str], entry: Entry, image: np.ndarray, workspace: Workspace
) -> Iterator[Step]:
    def of(stage: str, name: str) -> Path:
        return workspace.path(stage, name, axes)

    match stage:
        case "cam_infer" | "amn_infer":
            file = of(stage, "cams") / f"{entry.id}.npz"
            if file.is_file():
                yield Step(f"CAM {axes['cam']}", cam_tile(image, maps.read(file).cam), file)
        case "crf_refine":
            yield from _mask(f"seeds {axes['mask']}", of(stage, "seeds"), entry, image)
            yield from _mask(f"mask {axes['mask']}", of(stage, "masks"), entry, image)
        case _ if "mask" in axes and "masks" in PATHS[stage]:
            yield from _mask(f"mask {axes['mask']}", of(stage, "masks"), entry, image)
        case "seg_train":
            title = f"prediction {axes['seg']}"
            predicted = [*_mask(title, of("seg_eval", "pred"), entry, image)]
            yield from predicted or _applied(title, of(stage, "model"), entry, image, workspace)
        case "wsis_train":
            title = f"instances {axes['inst']}"
            yield from _applied(title, of(stage, "model"), entry, image, workspace)


def _mask(title: str, folder: Path, entry: Entry, image: np.ndarray) -> Iterator[Step]:
    file = folder / f"{entry.id}.png"
    if file.is_file():
        yield Step(title, overlays.mask_overlay(image, pictures.read_mask(file)), file)


def _applied(
    title: str, model: Path, entry: Entry, image: np.ndarray, workspace: Workspace
) -> Iterator[Step]:
    if model.is_file():
        # Not at the top: it brings torch, which most of the way does without.
        from fbr.stages import predicting

        yield Step(title, predicting.tile(model, entry, image, workspace), model)
