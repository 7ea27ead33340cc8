"""What cam_train hands to a method beside image and labels."""

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.files import pictures
from fbr.stages import cam_train, training
from tests.unit.stages.conftest import ENTRIES


@pytest.fixture
def sources(monkeypatch):
    """The images of each training that would have begun, and its inputs."""
    begun = []

    def train(job, processes, network, heads, source, inputs):
        begun.append((source, inputs))

    monkeypatch.setattr(training, "train", train)
    return begun


def add_saliency(job, *entries) -> None:
    """The red channel: what is cut as the image is shows the same."""
    for entry in entries:
        red = job.data.image(entry)[..., 0]
        pictures.write_grey(job.data.folder / "saliency" / f"{entry.id}.png", red)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_saliency_is_cut_as_the_image_is(job, sources, resample):
    made = job("cam_train", cam="eps")
    made.numbers = made.numbers.model_copy(update={"resample": resample})
    add_saliency(made, *ENTRIES[:2])
    cam_train.run(made)
    (source, inputs), crop = sources[0], made.numbers.crop
    assert made.path("prepare", "saliency") in inputs
    for seed in range(4):
        sample = source.sample(0, np.random.default_rng(seed))
        assert sample["saliency"].shape == (crop, crop)
        padded = (sample["image"] == training.PADDING).all(-1)
        assert (sample["saliency"][padded] == 0).mean() > 0.99
        inside = sample["image"][..., 0][~padded].astype(int)
        assert np.abs(sample["saliency"][~padded] - inside).max() <= 1


def test_an_image_without_saliency_is_refused(job, sources):
    made = job("cam_train", cam="eps")
    add_saliency(made, ENTRIES[0])
    with pytest.raises(Refusal, match=r"saliency: found none of id 'b', expected .* that eps"):
        cam_train.run(made)
    assert not sources


def test_who_needs_no_saliency_reads_none(job, sources):
    made = job("cam_train")
    add_saliency(made, *ENTRIES[:2])
    cam_train.run(made)
    source, inputs = sources[0]
    assert source.sample(0, np.random.default_rng(0)).keys() == {"image", "label"}
    assert made.path("prepare", "saliency") not in inputs
