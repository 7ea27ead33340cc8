"""A job of any stage in a workspace with three small images."""

import numpy as np
import pytest

from fbr import params
from fbr.datasets.prepared import Entry, write_index
from fbr.files import pictures
from fbr.stages.job import Job
from fbr.workspace import Workspace
from tests.checkout import ROOT

AXES = {"data": "toy", "seed": "s1", "cam": "plain", "mask": "irn", "seg": "deeplabv2"}
NAMES = ["background", "cat", "dog"]
ENTRIES = [
    Entry("a", 40, 36, ("train",), (1, 2)),
    Entry("b", 32, 50, ("train",), (2,)),
    Entry("c", 30, 30, ("val",), ()),
]


@pytest.fixture(scope="session")
def numbers() -> params.Params:
    return params.load(ROOT / "params.yaml")


@pytest.fixture
def job(tmp_path, numbers):
    """Make the job of a stage."""
    folder = tmp_path / "data" / "toy"
    rng = np.random.default_rng(0)
    for entry in ENTRIES:
        image = rng.integers(0, 256, (entry.height, entry.width, 3), np.uint8)
        pictures.write_jpeg(folder / "images" / f"{entry.id}.jpg", image)
    write_index(folder, ENTRIES, NAMES)

    def job(stage: str, **axes: str) -> Job:
        return Job(stage, AXES | axes, numbers, Workspace(tmp_path), threads=1)

    return job
