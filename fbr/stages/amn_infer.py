"""amn_infer: maps by a network that is told an image's classes and its seeds' background."""

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbr.cam.method import Seeded
from fbr.datasets.prepared import Entry
from fbr.stages.activation import Mean, seeded_cam, strided, write_maps
from fbr.stages.job import Job


def run(job: Job) -> None:
    """Make the maps of present classes at the size of the image, write them at stride 4."""
    seeds = job.path("crf_refine", "seeds", cam="plain", mask="amn_seeds")

    def make(network: Seeded, mean: Mean, entry: Entry, keys: Tensor) -> Tensor:
        if job.numbers.released:
            _drop(network, entry)
        cam = seeded_cam(job.data, seeds, network, mean, entry, keys)
        # One map a row: an image without classes has none, and channels must not be none.
        return F.interpolate(cam[:, None], strided(entry), mode="bilinear")[:, 0]

    write_maps(job, make, seeds)


def _drop(network: nn.Module, entry: Entry) -> None:
    """Leave dropout on, the same for an image whichever were done before it."""
    torch.manual_seed(zlib.crc32(entry.id.encode()))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
