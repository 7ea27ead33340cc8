"""Pictures of what a stage made, for the report and for the tracking run."""

from collections.abc import Callable, Iterable

import numpy as np

from fbr.datasets.prepared import VOID, Entry, Prepared
from fbr.files import pictures
from fbr.show import overlays
from fbr.stages.job import Job

TRACKED = 10
CONFIDENT = 0.5  # what a picture shows of the detections
Tiles = list[tuple[str, np.ndarray]]


def track_overlays(job: Job, entries: Iterable[Entry], tiles: Callable[[Entry], Tiles]) -> None:
    """Give the tracking run a picture of the first ten images."""
    for entry in list(entries)[:TRACKED]:
        job.run.image(f"overlays/{entry.id}", overlays.panel(tiles(entry)))


def cam_tile(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """The strongest class's map (k, h, w) over the image."""
    strongest = cam.astype(np.float32).max(0) if len(cam) else np.zeros(image.shape[:2], np.float32)
    return overlays.heat(image, strongest)


def instance_tile(image: np.ndarray, records: list[dict]) -> np.ndarray:
    """Detections of some confidence over the image, in one colour each."""
    # Not at the top: it brings torch, which the workers of crf_refine and the scores do without.
    from fbr.masks.instances import decode

    numbers = np.zeros(image.shape[:2], np.uint8)
    confident = [record for record in records if record["score"] >= CONFIDENT]
    for number, record in enumerate(confident):
        numbers[decode(record["segmentation"])] = 1 + number % (VOID - 1)
    return overlays.mask_overlay(image, numbers)


def instance_tiles(data: Prepared, entry: Entry, records: list[dict]) -> Tiles:
    """Image, detections, and the true instances."""
    image = data.image(entry)
    tiles = [("image", image), ("instances", instance_tile(image, records))]
    if data.has("instances", entry):
        tiles.append(("truth", overlays.mask_overlay(image, data.instances(entry))))
    return tiles


def track_masks(job: Job, entries: Iterable[Entry]) -> None:
    """Show the tracking run the masks that this stage wrote."""

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(job.out("masks") / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, job.axes["mask"])

    track_overlays(job, entries, tiles)


def mask_tiles(job: Job, entry: Entry, found: np.ndarray, name: str) -> Tiles:
    """Image, mask, and, where there is ground truth, the truth and the mistakes."""
    image = job.data.image(entry)
    tiles = [("image", image), (name, overlays.mask_overlay(image, found))]
    if job.data.has("masks", entry):
        truth = job.data.mask(entry)
        tiles.append(("truth", overlays.mask_overlay(image, truth)))
        tiles.append(("errors", overlays.error_map(found, truth)))
    return tiles
