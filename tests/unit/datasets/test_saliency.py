"""Saliency maps under the names that other programs give them."""

import logging

import numpy as np
import pytest

from fbr.datasets import saliency
from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder

ENTRIES = [Entry(id, 20, 30, split, ()) for id, split in {"a": ("train",), "b": ("val",)}.items()]
GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "maps").mkdir()
    return tmp_path / "maps"


@pytest.fixture
def target(tmp_path):
    return PartialFolder(tmp_path / "saliency", "k")


@pytest.mark.parametrize(
    "name",
    ["a.png", "a.bmp", "a_sal.png", "a_saliency.png", "sal_a.png", "a-sal.png", "a.jpg.png"],
)
def test_common_names_are_known(folder, target, name):
    pictures.write_grey(folder / name, GREY)
    assert saliency.add(folder, ENTRIES, target) == {"train": "1 of 1", "val": "0 of 1"}
    assert np.array_equal(pictures.read_grey(target / "a.png"), GREY)


@pytest.mark.parametrize("name", ["a.jpg", "a_sal.jpg"])
def test_jpegs_and_colours_become_grey(folder, target, name):
    pictures.write_jpeg(folder / name, np.full((20, 30, 3), 99, np.uint8))
    saliency.add(folder, ENTRIES, target)
    assert pictures.is_grey(target / "a.png")
    assert abs(pictures.read_grey(target / "a.png").astype(int) - 99).max() <= 2


def test_the_exact_name_comes_first_and_png_before_jpg(folder, target):
    pictures.write_grey(folder / "a_sal.png", GREY // 2)
    pictures.write_jpeg(folder / "a.jpg", np.zeros((20, 30, 3), np.uint8))
    pictures.write_grey(folder / "a.png", GREY)
    saliency.add(folder, ENTRIES, target)
    assert np.array_equal(pictures.read_grey(target / "a.png"), GREY)


def test_a_smaller_map_of_the_same_shape_is_taken(folder, target):
    pictures.write_grey(folder / "a.png", np.zeros((7, 11), np.uint8))
    saliency.add(folder, ENTRIES, target)


def test_coverage_is_one_line(folder, target, caplog):
    pictures.write_grey(folder / "a.png", GREY)
    with caplog.at_level(logging.INFO, "fbr"):
        saliency.add(folder, ENTRIES, target)
    assert caplog.messages == ["saliency: train 1 of 1, val 0 of 1; the first without is b"]


def test_maps_of_other_images_are_refused(folder, target):
    pictures.write_grey(folder / "c.png", GREY)
    with pytest.raises(
        Refusal, match=r"no saliency map of any image among its 1 pictures.* a\.png"
    ):
        saliency.add(folder, ENTRIES, target)


def test_a_map_of_another_shape_is_refused(folder, target):
    pictures.write_grey(folder / "a.png", GREY.T.copy())
    with pytest.raises(Refusal, match="20x30 cannot be of id 'a', which is 30x20"):
        saliency.add(folder, ENTRIES, target)


def test_no_such_folder_is_refused(folder, target):
    with pytest.raises(Refusal, match="no such folder"):
        saliency.add(folder / "x", ENTRIES, target)
