"""cam_infer: class activation maps of every image of a split, over scales and flips."""

import numpy as np
import torch

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.nets.inference import multi_scale
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, cam_tile, track_overlays
from fbr.train.processes import device

STRIDE = 4
TINY = 1e-5


def run(job: Job) -> None:
    """Write the maps of present classes, each divided by its largest value, at stride 4."""
    numbers = job.numbers
    torch.set_num_threads(job.threads)
    here = device()
    model = job.path("cam_train", "model")
    network, described = networks.load(model, here)
    folder = PartialFolder(job.out("cams"), job.key(model, job.path("prepare", "index")))
    entries = job.data.split(numbers.split)
    if numbers.also is not None:
        entries += [e for e in job.data.split(numbers.also) if numbers.split not in e.splits]
    todo = [e for e in entries if not folder.has(f"{e.id}.npz")]
    log.info("cam_infer: %d of %d images to do", len(todo), len(entries))
    for entry, image in counted(read_ahead(todo, job.data.image), "cam_infer", len(todo)):
        size = (-(-entry.height // STRIDE), -(-entry.width // STRIDE))
        found = multi_scale(
            network.maps,
            image,
            numbers.scales,
            numbers.flip,
            size,
            here,
            described["bfloat16"],
        )
        keys = np.array(entry.classes, np.uint8)
        chosen = found[keys.astype(np.int64) - 1]
        peak = chosen.amax((1, 2), keepdim=True).clamp(min=TINY)
        cam = (chosen / peak).cpu().numpy()
        maps.write(folder / f"{entry.id}.npz", maps.Maps(keys, cam, (entry.height, entry.width)))
    folder.finish()

    def tiles(entry: Entry) -> Tiles:
        image, found = job.data.image(entry), maps.read(job.out("cams") / f"{entry.id}.npz")
        return [("image", image), ("CAM", cam_tile(image, found.cam))]

    track_overlays(job, entries, tiles)
