"""The toy world as a source of `prepare`: drawn, not downloaded."""

from pathlib import Path

from fbr.datasets import toy
from fbr.datasets.prepared import Built, Entry
from fbr.datasets.workers import Watched, unwatched
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import ToySource


def missing(source: ToySource, root: Path) -> dict[str, str]:
    """What must be fetched first: nothing."""
    return {}


def inputs(source: ToySource, root: Path) -> list[Path]:
    """Files that half-done work depends on: none."""
    return []


def build(
    source: ToySource,
    root: Path,
    folders: dict[str, PartialFolder],
    processes: int = 1,
    watched: Watched = unwatched,
) -> Built:
    """Draw every image; the test split gets no labels and no masks."""
    world = toy.World(**source.world.model_dump())
    sizes = {"train": source.train, "val": source.val, "test": source.test}
    splits = [split for split, count in sizes.items() for _ in range(count)]
    entries = []
    for index, split in enumerate(watched(splits, "prepare", len(splits))):
        scene = toy.draw(world, source.seed, index)
        id = f"toy_{index:06d}"
        height, width = scene.mask.shape
        labelled = split != "test"
        if labelled:
            pictures.write_mask(folders["masks"] / f"{id}.png", scene.mask)
            pictures.write_mask(folders["instances"] / f"{id}.png", scene.instances)
            pictures.write_grey(folders["saliency"] / f"{id}.png", scene.saliency)
            pictures.write_mask(folders["companions"] / f"{id}.png", scene.companions)
        pictures.write_jpeg(folders["images"] / f"{id}.jpg", scene.image)
        entries.append(Entry(id, height, width, (split,), scene.classes if labelled else ()))
    return Built(entries, ["background", *toy.CLASSES], {})
