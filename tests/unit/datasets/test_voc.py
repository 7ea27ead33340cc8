"""VOC from a folder in VOCdevkit's layout, drawn here."""

import numpy as np
import pytest

from fbr.datasets import voc
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import VocSource

SIZE = (6, 9)
FOLDERS = ("images", "masks", "instances", "saliency", "companions")
LISTS = {"train": "a", "trainaug": "a b", "val": "c", "test": "d"}


def source(**options) -> VocSource:
    numbers = {"source": "voc", "root": "VOC2012", "train_masks": "SegmentationClassAug"}
    return VocSource(**numbers | options)


def mask(*labels: int) -> np.ndarray:
    """The labels side by side, as many columns each, void at the bottom."""
    found = np.zeros(SIZE, np.uint8)
    for number, label in enumerate(labels):
        found[:-1, 3 * number : 3 * number + 3] = label
    found[-1] = 255
    return found


MASKS = {"a": mask(0, 8, 12), "b": mask(12, 12, 1), "c": mask(20, 0, 0)}


@pytest.fixture
def devkit(tmp_path):
    base = tmp_path / "VOC2012"
    for name, ids in LISTS.items():
        file = base / "ImageSets" / "Segmentation" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(ids.split()) + "\n")
    for id in "abcd":
        pictures.write_jpeg(base / "JPEGImages" / f"{id}.jpg", np.zeros((*SIZE, 3), np.uint8))
    for id, labels in MASKS.items():
        pictures.write_mask(base / "SegmentationClassAug" / f"{id}.png", labels)
    pictures.write_mask(base / "SegmentationObject" / "a.png", mask(0, 1, 2))
    pictures.write_grey(base / "Saliency" / "b.png", mask(9, 9, 9))
    return base


@pytest.fixture
def folders(tmp_path):
    return {name: PartialFolder(tmp_path / "data" / name, "k") for name in FOLDERS}


def build(devkit, folders, **options):
    return voc.build(source(**options), devkit.parent, folders)


def written(folder) -> list[str]:
    return sorted(p.name for p in folder.partial.iterdir() if p.name != ".key")


def test_entries_say_what_is_there(devkit, folders):
    entries, names, found = build(devkit, folders)
    assert found == {
        "masks of": {"SegmentationClassAug": 3},
        "saliency": {"test": "0 of 1", "train": "0 of 1", "train_aug": "1 of 2", "val": "0 of 1"},
    }
    assert names == ["background", *voc.CLASSES]
    assert [(e.id, e.splits, e.classes) for e in entries] == [
        ("a", ("train", "train_aug"), (8, 12)),
        ("b", ("train_aug",), (1, 12)),
        ("c", ("val",), (20,)),
        ("d", ("test",), ()),
    ]
    assert all((e.height, e.width) == SIZE for e in entries)


def test_pictures_are_linked_and_masks_rewritten(devkit, folders):
    build(devkit, folders)
    assert written(folders["images"]) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert (folders["images"] / "a.jpg").samefile(devkit / "JPEGImages" / "a.jpg")
    assert written(folders["masks"]) == ["a.png", "b.png", "c.png"]
    for id, labels in MASKS.items():
        assert np.array_equal(pictures.read_mask(folders["masks"] / f"{id}.png"), labels)
    assert written(folders["instances"]) == ["a.png"]
    assert np.array_equal(pictures.read_mask(folders["instances"] / "a.png"), mask(0, 1, 2))
    assert written(folders["saliency"]) == ["b.png"]
    assert written(folders["companions"]) == []


def test_a_subset_is_numbered_anew_and_the_rest_void(devkit, folders):
    entries, names, _ = build(devkit, folders, classes=["dog", "aeroplane"])
    assert names == ["background", "aeroplane", "dog"]
    assert [e.classes for e in entries] == [(2,), (1, 2), (), ()]
    assert np.array_equal(pictures.read_mask(folders["masks"] / "a.png"), mask(0, 255, 2))
    assert np.array_equal(pictures.read_mask(folders["masks"] / "b.png"), mask(2, 2, 1))


def test_masks_exchanged_after_a_kill_are_the_ones_that_count(devkit, folders):
    build(devkit, folders)
    source = next(devkit.rglob("SegmentationClassAug/a.png"))
    pictures.write_mask(source, np.full_like(pictures.read_mask(source), 3))
    entries = build(devkit, folders).entries
    assert entries[0].classes == (3,)
    assert (pictures.read_mask(folders["masks"] / "a.png") == 3).all()


def test_a_training_image_without_its_mask_is_refused(devkit, folders):
    next(devkit.rglob("SegmentationClassAug/a.png")).unlink()
    with pytest.raises(Refusal, match=r"a\.png: missing, expected the mask of id 'a'"):
        build(devkit, folders)


def test_an_unknown_class_is_refused_with_the_nearest(devkit, folders):
    with pytest.raises(Refusal, match=r"found 'dogs', expected classes of VOC. .* 'dog'\?"):
        build(devkit, folders, classes=["dogs"])


def test_what_must_be_fetched_is_told_together(tmp_path, folders):
    assert list(voc.missing(source(), tmp_path)) == ["trainval", "sbd"]
    with pytest.raises(Refusal, match=r"VOC is not there yet: VOC2012: .*VOCtrainval.*Aug"):
        voc.build(source(), tmp_path, folders)


def test_nothing_is_missing_from_a_whole_devkit(devkit):
    assert voc.missing(source(), devkit.parent) == {}


def test_a_list_may_begin_with_a_byte_order_mark(devkit, folders):
    file = devkit / "ImageSets" / "Segmentation" / "train.txt"
    file.write_text("\ufeffa\n", encoding="utf-8")
    assert build(devkit, folders).entries[0].splits == ("train", "train_aug")


def test_lists_without_ids_are_refused(devkit, folders):
    lists = devkit / "ImageSets" / "Segmentation"
    for name in LISTS:
        (lists / f"{name}.txt").write_text("\n")
    named = ", ".join(str(lists / f"{name}.txt") for name in sorted(LISTS))
    said = f"{named}: found no id in these lists; fetch them again: VOC 2012: VOCtrainval"
    with pytest.raises(Refusal, match=f"VOC is not there yet: {said}"):
        build(devkit, folders)


def test_a_list_without_ids_gives_way_to_one_elsewhere(devkit, folders):
    (devkit / "ImageSets" / "Segmentation" / "train.txt").write_text("")
    (devkit / "voc12").mkdir()
    (devkit / "voc12" / "train.txt").write_text("a\n")
    assert build(devkit, folders).entries[0].splits == ("train", "train_aug")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda b: (b / "JPEGImages/b.jpg").unlink(), "missing, expected the file of id 'b'"),
        (lambda b: (b / "JPEGImages/b.jpg").write_text("x"), "cannot be read .* of id 'b'"),
        (
            lambda b: pictures.write_mask(b / "SegmentationClassAug/b.png", mask(0)[1:]),
            "id 'b' is 9x5 here, its image 9x6",
        ),
        (
            lambda b: pictures.write_mask(b / "SegmentationObject/a.png", mask(0)[:, 1:]),
            "id 'a' is 8x6 here, its image 9x6",
        ),
        (
            lambda b: pictures.write_mask(b / "SegmentationClassAug/b.png", mask(21)),
            "id 'b' has label 21, expected 0 to 20, or 255",
        ),
        (
            lambda b: pictures.write_jpeg(
                b / "SegmentationClassAug/b.png", np.full((*SIZE, 3), 99, np.uint8)
            ),
            "id 'b' has the colour #636363, which is none of VOC's palette",
        ),
    ],
)
def test_a_spoilt_file_is_refused_with_its_id(devkit, folders, spoil, said):
    spoil(devkit)
    with pytest.raises(Refusal, match=said):
        build(devkit, folders)
