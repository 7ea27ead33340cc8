"""The toy world on disk: what was drawn is what is read, and the test split keeps its secrets."""

import numpy as np
import pytest
import yaml

from fbr.datasets import toy, toy_source
from fbr.datasets.prepared import Prepared, write_index
from fbr.files.atomic import PartialFolder
from fbr.files.pictures import read_grey
from fbr.params import ToySource
from tests.checkout import ROOT

KINDS = ("masks", "instances", "saliency", "companions")


@pytest.fixture
def source() -> ToySource:
    numbers = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]["toy"]["prepare"]
    numbers["world"] |= {"size": 48, "size_jitter": 8}
    return ToySource(**numbers | {"train": 6, "val": 2, "test": 2})


@pytest.fixture
def data(source, tmp_path) -> Prepared:
    folders = {name: PartialFolder(tmp_path / name, "k") for name in ("images", *KINDS)}
    entries, names, _ = toy_source.build(source, tmp_path, folders)
    for folder in folders.values():
        folder.finish()
    write_index(tmp_path, entries, names)
    return Prepared(tmp_path)


def test_what_is_known_of_a_scene_is_written(data, source):
    world = toy.World(**source.world.model_dump())
    seen = set()
    for index, entry in enumerate(data.split("train") + data.split("val")):
        scene = toy.draw(world, source.seed, index)
        assert entry.classes == scene.classes
        assert np.array_equal(data.mask(entry), scene.mask)
        assert np.array_equal(data.instances(entry), scene.instances)
        assert np.array_equal(data.companions(entry), scene.companions)
        saliency = data.folder / "saliency" / f"{entry.id}.png"
        assert np.array_equal(read_grey(saliency), scene.saliency)
        on_object = (data.instances(entry) > 0) & (data.mask(entry) != toy.VOID)
        assert not data.companions(entry)[on_object].any()
        seen |= set(np.unique(data.companions(entry)))
    assert len(seen) > 2


def test_the_test_split_has_images_alone(data):
    assert len(data.split("test")) == 2
    for entry in data.split("test"):
        assert entry.classes == ()
        assert data.image(entry).shape == (entry.height, entry.width, 3)
        assert not any(data.has(kind, entry) for kind in KINDS)
