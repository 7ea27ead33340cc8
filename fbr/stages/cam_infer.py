"""cam_infer: class activation maps of every image of a split, over scales and flips."""

from torch import Tensor

from fbr.cam.method import Method
from fbr.datasets.prepared import Entry
from fbr.stages.activation import Mean, strided, write_maps
from fbr.stages.job import Job


def run(job: Job) -> None:
    """Write the maps of present classes, each divided by its largest value, at stride 4."""

    def make(network: Method, mean: Mean, entry: Entry, keys: Tensor) -> Tensor:
        return network.finish(mean(network.maps, size=strided(entry))[0], keys)

    write_maps(job, make)
