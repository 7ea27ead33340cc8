"""What cam_infer and amn_infer have in common: a CAM network over the images of a split."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fbr.cam.method import Method, Seeded
from fbr.datasets.prepared import Entry, Prepared
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.nets.inference import multi_scale
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead, read_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, cam_tile, track_overlays
from fbr.train.processes import device

STRIDE = 4
MOST = 0.5  # share of images whose empty maps are worth a word

Mean = Callable[..., Tensor]  # (network, size=…) → mean over scales and flips, (1, C, *size)


def write_maps(
    job: Job, make: Callable[[Method, Mean, Entry, Tensor], Tensor], *inputs: Path
) -> None:
    """Write what `make` finds for the classes of each image, ids (k,): maps (k, h, w) in 0…1."""
    numbers = job.numbers
    torch.set_num_threads(job.threads)
    here = device()
    model = job.path("cam_train", "model")
    network, described = networks.load(model, here)
    folder = PartialFolder(job.out("cams"), job.key(model, job.path("prepare", "index"), *inputs))
    entries = job.data.split(numbers.split)
    if numbers.also is not None:
        entries += [e for e in job.data.split(numbers.also) if numbers.split not in e.splits]
    todo = [e for e in entries if not folder.has(f"{e.id}.npz")]
    log.info("%s: %d of %d images to do", job.stage, len(todo), len(entries))
    mean = partial(
        multi_scale,
        scales=numbers.scales,
        flip=numbers.flip,
        device=here,
        bfloat16=described["bfloat16"],
        positions=None if numbers.cells else network.positions,
    )
    empty = 0
    for entry, image in counted(read_ahead(todo, job.data.image), job.stage, len(todo)):
        keys = np.array(entry.classes, np.uint8)
        ids = torch.from_numpy(keys).long().to(here)
        cam = make(network, partial(mean, images=image[None]), entry, ids)
        cam = cam.pow(numbers.power).cpu().numpy()
        maps.write(folder / f"{entry.id}.npz", maps.Maps(keys, cam, (entry.height, entry.width)))
        empty += bool(entry.classes) and not cam.any()
    if empty > MOST * len(todo):
        log.warning(
            "%s: the maps of %d of %d images are zero everywhere; the training may have broken "
            "down, its losses are in %s",
            *(job.stage, empty, len(todo), job.path("cam_train", "history")),
        )
    folder.finish()

    def tiles(entry: Entry) -> Tiles:
        image, found = job.data.image(entry), read_maps(job.out("cams"), entry)
        return [("image", image), ("CAM", cam_tile(image, found.cam))]

    track_overlays(job, entries, tiles)


def seeded_cam(
    data: Prepared, seeds: Path, network: Seeded, mean: Mean, entry: Entry, keys: Tensor
) -> Tensor:
    """Maps (k, H, W) of the classes of an image, from a network that is told them and its seeds."""
    label = torch.zeros(1, data.foreground, device=keys.device)
    label[0, keys - 1] = 1
    found = mean(
        lambda views: network.maps(views, label.expand(len(views), -1)),
        size=(entry.height, entry.width),
    )
    sure = torch.from_numpy(data.ids(seeds / f"{entry.id}.png", entry)) == 0
    return network.finish(found[0], keys, sure.to(keys.device))


def strided(entry: Entry) -> tuple[int, int]:
    """Height and width of an image's maps."""
    return -(-entry.height // STRIDE), -(-entry.width // STRIDE)
