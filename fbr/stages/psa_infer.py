"""psa_infer: spread the maps by a random walk over affinities of learnt features."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.masks.affinity import feature_affinity
from fbr.masks.walk import spread
from fbr.nets.inputs import normalise
from fbr.nets.psa import PairFeatures
from fbr.params import PsaInfer
from fbr.positions import Positions
from fbr.stages import networks
from fbr.stages.images import alike, counted, read_ahead, with_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.thresholds import write_cut
from fbr.stages.walking import at_positions, in_cells
from fbr.train.processes import device


def run(job: Job) -> None:
    """Images of one size walk together, all of their classes at once."""
    torch.set_num_threads(job.threads)
    here = device()
    cams, model = job.path("cam_infer", "cams"), job.path("psa_train", "model")
    network, _ = networks.load(model, here)
    masks = PartialFolder(job.out("masks"), job.key(cams, model))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    groups = alike(entries, here)
    todo = [group for group in groups if not all(masks.has(f"{e.id}.png") for e in group)]
    count = sum(map(len, todo))
    log.info("psa_infer: %d of %d images to do", count, len(entries))

    def refined() -> Iterator[tuple[Entry, maps.Maps]]:
        for group, (images, seen) in read_ahead(todo, partial(with_maps, job.data, cams)):
            affinity = affinities(network, images, job.numbers.radius, here)
            together = refine(seen, affinity, network.positions, job.numbers)
            yield from zip(group, together, strict=True)

    for entry, scores in counted(refined(), "psa_infer", count):
        write_cut(masks, entry, scores, job.numbers.threshold)
    masks.finish()
    track_masks(job, entries)


@torch.inference_mode()
def affinities(
    network: PairFeatures, images: np.ndarray, radius: int, device: torch.device
) -> Tensor:
    """Affinities (n, P, h, w) in 0…1 of images (n, H, W, 3) uint8, on the device."""
    features = network(normalise(torch.from_numpy(images).to(device)))
    return feature_affinity(features, radius)


def refine(
    seen: list[maps.Maps], affinity: Tensor, positions: Positions, numbers: PsaInfer
) -> list[maps.Maps]:
    """Walk with the maps; of each image, class scores on a grid as fine as the affinities'.

    seen: of images of one size. positions: of the affinities. The background's constant score would
    stay as it is in the walk, so it need not walk along.
    """
    grid = affinity.shape[2:]
    cams = [at_positions(one, grid, positions) for one in seen]
    # Where an image has fewer classes than another, empty maps walk along.
    start = pad_sequence([torch.from_numpy(c).to(affinity.device) for c in cams], batch_first=True)
    walked = spread(start, affinity, numbers.beta, numbers.exp_times, numbers.radius)
    scores = in_cells(walked, seen[0].size, positions).cpu().numpy().astype(np.float16)
    return [
        maps.Maps(one.keys, found[: len(one.keys)], one.size)
        for one, found in zip(seen, scores, strict=True)
    ]
