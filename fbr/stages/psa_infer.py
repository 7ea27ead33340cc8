"""psa_infer: spread the maps by a random walk over affinities of learnt features."""

import numpy as np
import torch
from torch import Tensor

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.masks.affinity import feature_affinity
from fbr.masks.walk import spread
from fbr.nets.inputs import normalise
from fbr.nets.psa import PairFeatures
from fbr.params import PsaInfer
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.thresholds import write_cut
from fbr.train.processes import device


def run(job: Job) -> None:
    """One walk an image, all of its classes at once."""
    torch.set_num_threads(job.threads)
    here = device()
    cams, model = job.path("cam_infer", "cams"), job.path("psa_train", "model")
    network, _ = networks.load(model, here)
    masks = PartialFolder(job.out("masks"), job.key(cams, model))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    todo = [e for e in entries if not masks.has(f"{e.id}.png")]
    log.info("psa_infer: %d of %d images to do", len(todo), len(entries))

    def read(entry: Entry) -> tuple[np.ndarray, maps.Maps]:
        return job.data.image(entry), maps.read(cams / f"{entry.id}.npz")

    for entry, (image, seen) in counted(read_ahead(todo, read), "psa_infer", len(todo)):
        affinity = affinities(network, image, job.numbers.radius, here)
        write_cut(masks, entry, refine(seen, affinity, job.numbers), job.numbers.threshold)
    masks.finish()
    track_masks(job, entries)


@torch.inference_mode()
def affinities(
    network: PairFeatures, image: np.ndarray, radius: int, device: torch.device
) -> Tensor:
    """Affinities (P, h, w) in 0…1 of an image (H, W, 3) uint8, on the device."""
    features = network(normalise(torch.from_numpy(image)[None].to(device)))
    return feature_affinity(features, radius)[0]


def refine(seen: maps.Maps, affinity: Tensor, numbers: PsaInfer) -> maps.Maps:
    """Walk with the maps; return class scores on the grid of the affinities.

    The background's constant score would stay as it is in the walk, so it need not walk along.
    """
    cam = maps.resize(seen.cam.astype(np.float32), affinity.shape[1:])
    cam = torch.from_numpy(cam).to(affinity.device)
    walked = spread(cam, affinity, numbers.beta, numbers.exp_times, numbers.radius)
    return maps.Maps(seen.keys, walked.cpu().numpy().astype(np.float16), seen.size)
