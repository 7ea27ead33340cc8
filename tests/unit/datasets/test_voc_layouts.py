"""VOC and SBD in the layouts in which people have them, and labels from XML or masks."""

import shutil

import numpy as np
import pytest

from fbr.datasets import voc
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import VocSource
from tests import official

FOLDERS = ("images", "masks", "instances", "saliency", "companions")


@pytest.fixture
def build(tmp_path):
    def build(**options) -> voc.Built:
        numbers = {"source": "voc", "root": "mine", "train_masks": "SegmentationClassAug"}
        folders = {n: PartialFolder(tmp_path / "data" / n, "k", fresh=True) for n in FOLDERS}
        return voc.build(VocSource(**numbers | options), tmp_path, folders)

    return build


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "mine"


def splits(built) -> dict[str, list[str]]:
    found = {}
    for entry in built.entries:
        for split in entry.splits:
            found.setdefault(split, []).append(entry.id)
    return found


def classes(built) -> dict[str, tuple[int, ...]]:
    return {entry.id: entry.classes for entry in built.entries}


def written(tmp_path, id):
    return pictures.read_mask(tmp_path / "data" / "masks.partial" / f"{id}.png")


def test_masks_of_sbd_are_read_and_train_aug_is_what_is_not_val(mine, build, tmp_path):
    official.voc(mine)
    official.sbd(mine)
    built = build()
    assert splits(built) == official.LISTS | {"train_aug": official.AUG}
    assert built.found["masks of"] == {"SBD": 2, "SegmentationClass": 3}
    for id, labels in official.VOC.items():
        if id in official.AUG + official.LISTS["val"]:
            wanted = official.mask(labels)
            if id not in official.LISTS["trainval"]:  # SBD knows no void
                wanted[wanted == 255] = 0
            assert np.array_equal(written(tmp_path, id), wanted)


def test_the_same_from_a_folder_of_masks_with_or_without_a_list(mine, build):
    base = official.voc(mine)
    for id in official.AUG + official.LISTS["val"]:
        pictures.write_mask(
            base / "SegmentationClassAug" / f"{id}.png", official.mask(official.VOC[id])
        )
    without = build()
    assert splits(without)["train_aug"] == official.AUG
    assert without.found == {
        "masks of": {"SegmentationClassAug": 5},
        "train_aug": "made of all masks but those of val, for there is no list",
    }
    (base / "ImageSets/Segmentation/trainaug.txt").write_text("\n".join(official.AUG))
    listed = build()
    assert listed.entries == without.entries
    assert listed.found == {"masks of": {"SegmentationClassAug": 5}}


def test_lists_of_irn_beside_the_devkit(mine, build):
    base = official.voc(mine)
    official.sbd(mine / "elsewhere")
    shutil.rmtree(base / "ImageSets")
    lists = mine / "voc12"
    lists.mkdir()
    line = "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n"
    for name, ids in {"train_aug": official.AUG, **official.LISTS}.items():
        (lists / f"{name}.txt").write_text("".join(line.format(id) for id in ids))
    (lists / "class_names.txt").write_text("aeroplane\nbicycle\n")
    assert splits(build()) == official.LISTS | {"train_aug": official.AUG}


@pytest.mark.parametrize("root", ["mine", "mine/VOCdevkit", "mine/VOCdevkit/VOC2012"])
def test_the_root_may_be_any_folder_above(mine, build, root):
    official.voc(mine)
    built = build(root=root, train_masks="SegmentationClass")
    assert splits(built) == official.LISTS


def test_another_year_beside_is_not_looked_at(mine, build):
    base = official.voc(mine)
    shutil.copytree(base, base.with_name("VOC2007"))
    (base.with_name("VOC2007") / "ImageSets/Segmentation/test.txt").write_text("x\n")
    assert "test" not in splits(build(train_masks="SegmentationClass"))


def test_parts_may_lie_in_downloads(mine, build, tmp_path):
    official.voc(mine)
    official.sbd(tmp_path / "downloads" / "voc")
    official.voc_test(tmp_path / "downloads" / "voc")
    built = build(archives={"test": {"urls": ["http://127.0.0.1:1/test.tar"]}})
    assert splits(built) == official.LISTS | {
        "train_aug": official.AUG,
        "test": official.TEST,
    }
    # A dataset of the user's own, such as a subset, has nothing to do with what others fetched.
    assert splits(build(train_masks="SegmentationClass")) == official.LISTS


def test_a_test_list_without_its_images_is_left_out(mine, build):
    base = official.voc(mine)
    (base / "ImageSets/Segmentation/test.txt").write_text("2008_000004\n")
    built = build(train_masks="SegmentationClass")
    assert "test" not in splits(built)
    assert built.found["test"] == "left out: none of its 1 images is there"


def test_labels_of_xml_and_of_masks_differ_as_told(mine, build):
    official.voc(mine)
    official.sbd(mine)
    seen, boxed = build(), build(labels="xml")
    assert classes(seen)["2007_000039"] == (20,)
    assert classes(boxed)["2007_000039"] == (5, 20)
    assert boxed.found["labels differ from the mask"] == 1
    assert {k: v for k, v in classes(boxed).items() if k != "2007_000039"} == {
        k: v for k, v in classes(seen).items() if k != "2007_000039"
    }


def test_labels_of_xml_of_some_classes(mine, build):
    official.voc(mine)
    built = build(labels="xml", classes=["person", "bottle"], train_masks="SegmentationClass")
    assert classes(built) == {"2007_000032": (2,), "2007_000039": (1,), "2011_000003": ()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: f.unlink(), r"2007_000039.xml: missing, expected the labels"),
        (lambda f: f.write_text("<annotation>"), "not VOC's XML"),
        (
            lambda f: f.write_text("<a><object><name>dragon</name></object></a>"),
            "id '2007_000039' shows 'dragon'",
        ),
    ],
)
def test_a_spoilt_xml_names_the_id(mine, build, spoil, said):
    base = official.voc(mine)
    spoil(base / "Annotations" / "2007_000039.xml")
    with pytest.raises(Refusal, match=said):
        build(labels="xml", train_masks="SegmentationClass")


def test_a_spoilt_mat_names_its_file(mine, build):
    official.voc(mine)
    base = official.sbd(mine)
    (base / "cls" / "2008_000001.mat").write_bytes(b"MATLAB 5.0 but not really")
    with pytest.raises(Refusal, match=r"2008_000001\.mat: not a mask of SBD"):
        build()


def test_masks_saved_as_colours_or_under_another_palette_are_repaired(mine, build, tmp_path):
    from PIL import Image

    base = official.voc(mine)
    first, second = (base / "SegmentationClass" / f"{id}.png" for id in official.LISTS["train"])
    wanted = [pictures.read_mask(path) for path in (first, second)]
    Image.open(first).convert("RGB").save(first)
    colours = Image.open(second).convert("RGB")
    colours.quantize(8, method=Image.Quantize.MAXCOVERAGE).save(second)
    assert not np.array_equal(np.array(Image.open(second)), wanted[1])
    built = build(train_masks="SegmentationClass")
    assert built.found["repaired: colours instead of ids"] == 1
    assert built.found["repaired: a palette in another order"] == 1
    for id, mask in zip(official.LISTS["train"], wanted, strict=True):
        assert np.array_equal(written(tmp_path, id), mask)


def test_two_processes_make_what_one_makes(mine, build, tmp_path, monkeypatch):
    official.voc(mine)
    official.sbd(mine)
    one = build()
    before = {p.name: p.read_bytes() for p in tmp_path.glob("data/masks.partial/*.png")}
    monkeypatch.setattr("fbr.datasets.workers.FEW", 0)
    folders = {n: PartialFolder(tmp_path / "data" / n, "k", fresh=True) for n in FOLDERS}
    source = VocSource(source="voc", root="mine", train_masks="SegmentationClassAug")
    assert voc.build(source, tmp_path, folders, processes=2) == one
    assert {p.name: p.read_bytes() for p in tmp_path.glob("data/masks.partial/*.png")} == before
