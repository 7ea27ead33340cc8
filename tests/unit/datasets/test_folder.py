"""The user's own images and CSV."""

import shutil
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from fbr.datasets import folder
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import FolderSource

SIZE = (10, 14)
TABLE = "id,labels\na,cat;dog\nb.png,\nc,dog\n"


@pytest.fixture
def mine(tmp_path):
    images = tmp_path / "mine" / "images"
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    pictures.write_jpeg(images / "a.jpg", noise)
    Image.fromarray(noise).save(images / "b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(images / "c.jpeg", exif=turned)
    Image.fromarray(noise).save(images / "d.jpg")
    (images / "notes.txt").write_text("x")
    (tmp_path / "mine" / "labels.csv").write_text(TABLE)
    return tmp_path / "mine"


@pytest.fixture
def build(mine, tmp_path):
    def build(**options):
        names = ("images", "masks", "instances", "saliency", "companions")
        folders = {n: PartialFolder(tmp_path / "data" / n, "k", fresh=True) for n in names}
        numbers = {"source": "folder", "images": "mine/images", "table": "mine/labels.csv"}
        return folder.build(FolderSource(**numbers | options), tmp_path, folders)

    return build


def test_images_and_labels_are_taken_over(mine, build, tmp_path):
    entries, names, found = build()
    assert names == ["background", "cat", "dog"]
    assert [(e.id, e.splits, e.classes) for e in entries] == [
        ("a", ("train",), (1, 2)),
        ("b", ("train",), ()),
        ("c", ("train",), (2,)),
    ]
    assert found == {
        "classes": "cat, dog",
        "images without a row, left out": 1,
        "images converted to JPEG": 1,
        "images turned upright": 1,
    }
    images = tmp_path / "data" / "images.partial"
    assert sorted(p.name for p in images.glob("*.jpg")) == ["a.jpg", "b.jpg", "c.jpg"]
    assert (images / "a.jpg").samefile(mine / "images" / "a.jpg")
    assert Image.open(images / "b.jpg").format == "JPEG"
    assert [(e.height, e.width) for e in entries] == [SIZE, SIZE, SIZE[::-1]]


def test_splits_and_classes_may_be_given(mine, build):
    (mine / "labels.csv").write_text("id,labels,split\na,cat,train val\nb,dog,val\n")
    entries, names, _ = build(classes=["dog", "cat", "cow"])
    assert names == ["background", "dog", "cat", "cow"]
    assert [(e.splits, e.classes) for e in entries] == [(("train", "val"), (2,)), (("val",), (1,))]


def test_masks_and_saliency_are_taken_where_they_are(mine, build, tmp_path):
    truth = np.array([[0, 1, 2, 255, 0, 0, 0]] * 5, np.uint8).repeat(2, 0).repeat(2, 1)
    pictures.write_mask(mine / "masks" / "a.png", truth)
    pictures.write_grey(mine / "sal" / "a_sal.png", truth)
    found = build(masks="mine/masks", saliency="mine/sal", classes=["cat", "dog"]).found
    assert found["masks"] == 1
    assert found["masks of train"].startswith("1 of 3, so the split cannot be scored; to score")
    assert found["saliency"] == {"train": "1 of 3"}
    assert np.array_equal(pictures.read_mask(tmp_path / "data" / "masks.partial" / "a.png"), truth)


def test_more_classes_than_ids_are_refused(mine, build):
    def many(count: int):
        labels = " ".join(f"c{i}" for i in range(count))
        (mine / "labels.csv").write_text(f"id,labels\na,{labels}\n")
        return build()

    assert len(many(254).names) == 255
    with pytest.raises(Refusal, match=r"labels.csv: found 255 classes, expected at most 254"):
        many(255)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id,labels\nx,cat\n", "line 2: no image of id 'x' in mine/images, expected x.jpg"),
        ("id,labels\na,cat\na,dog\n", "line 3: id 'a' is there twice"),
        ("name,labels\na,cat\n", "line 2 has nothing in the column id; expected id, labels"),
        ("id,labels\na\n", "line 2 has nothing in the column labels"),
        ("id,labels\n../a,cat\n", r"line 2: found the id '\.\./a', expected the name of an im"),
        ("id,labels\n\n\na,cat,dog\n", "line 4 has more cells than the header; put several"),
        ("id,labels\na,background\n", "line 2: found the label 'background', which every im"),
        ("id,labels\na,\n", "no image has a label"),
        ('id,labels\n"a,cat\nb,dog\n', r"not valid CSV \(unexpected end of data\); mend it"),
        ("", "no rows, expected the columns id, labels"),
    ],
)
def test_a_wrong_table_is_refused(mine, build, table, said):
    (mine / "labels.csv").write_text(table)
    with pytest.raises(Refusal, match=f"labels.csv: {said}"):
        build()


@pytest.mark.parametrize(
    "table",
    [
        "\ufeffid,labels\r\na,dog;cat\r\n",
        "id;labels\na;cat|dog\n",
        "id\tlabels\na\tcat dog\n",
        'id , labels\na,"cat,dog"\n',
    ],
)
def test_a_table_as_spreadsheets_save_it_is_read(mine, build, table):
    (mine / "labels.csv").write_text(table, encoding="utf-8")
    entries, names, _ = build()
    assert [(e.id, e.classes) for e in entries] == [("a", (1, 2))]
    assert names == ["background", "cat", "dog"]


def test_a_table_in_another_encoding_is_refused(mine, build):
    (mine / "labels.csv").write_bytes("id,labels\na,bär\n".encode("latin-1"))
    with pytest.raises(Refusal, match=r"labels.csv: is no text in UTF-8; save it as that"):
        build()


def test_a_class_may_have_a_space_in_its_name(mine, build):
    (mine / "labels.csv").write_text("id,labels\na,traffic light\nb,dog;traffic light\nc,dog\n")
    entries, _, _ = build(classes=["dog", "traffic light"])
    assert [e.classes for e in entries] == [(2,), (1, 2), (1,)]


def test_a_separator_anywhere_in_the_column_leaves_spaces_to_names(mine, build):
    (mine / "labels.csv").write_text("id,labels\na,traffic light\nb,dog;traffic light\nc,dog\n")
    entries, names, found = build()
    assert names == ["background", "dog", "traffic light"]
    assert [e.classes for e in entries] == [(2,), (1, 2), (1,)]
    assert found["classes"] == "dog, traffic light"


def test_spaces_and_separators_between_the_same_names_are_refused(mine, build):
    (mine / "labels.csv").write_text("id,labels\na,cat dog\nb,cat;dog\n")
    with pytest.raises(Refusal, match="found the label 'cat dog', and its words as labels of the"):
        build()


@pytest.mark.parametrize("id", ["with space", "par(1)", "plus+a", "it's, a;b", "Bär", "猫"])
@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_ordinary_file_names_are_ids(mine, build, tmp_path, id, listed, stored):
    name = normalize(stored, id)
    (mine / "images" / "a.jpg").rename(mine / "images" / f"{name}.jpg")
    pictures.write_mask(mine / "masks" / f"{name}.png", np.ones(SIZE, np.uint8))
    pictures.write_grey(mine / "sal" / f"{name}.png", np.ones(SIZE, np.uint8))
    (mine / "labels.csv").write_text(f'id,labels\n"{normalize(listed, id)}.jpg",cat\n')
    built = build(masks="mine/masks", saliency="mine/sal", classes=["cat"])
    assert [e.id for e in built.entries] == [id]
    assert built.found["saliency"] == {"train": "1 of 1"}
    data = tmp_path / "data"
    for file in (
        f"images.partial/{id}.jpg",
        f"masks.partial/{id}.png",
        f"saliency.partial/{id}.png",
    ):
        assert (data / file).is_file()


@pytest.mark.parametrize("id", [".a", "a/b", "a\\b", "a*", "a?", "[a]", "a#1", "50%", "a\x1b", ""])
def test_ids_that_files_or_patterns_cannot_hold_are_refused_in_one_line(mine, build, id):
    (mine / "labels.csv").write_text(f"id,labels\n{id},cat\n")
    with pytest.raises(Refusal, match=r"line 2: found the id .*, without a dot in front") as said:
        build()
    assert str(said.value).isprintable()


def test_names_that_differ_in_how_accents_are_stored_are_one(mine, build):
    for form in ("NFC", "NFD"):
        shutil.copy2(mine / "images" / "a.jpg", mine / "images" / f"{normalize(form, 'ä')}.jpg")
    with pytest.raises(Refusal, match="has the same id; rename one of them"):
        build()
    (mine / "images" / f"{normalize('NFD', 'ä')}.jpg").unlink()
    (mine / "labels.csv").write_text(f"id,labels\na,{normalize('NFD', 'bär')}\n")
    assert build(classes=["bär"]).entries[0].classes == (1,)


@pytest.mark.parametrize("classes", [["cat", "cat", "dog"], ["background", "cat", "dog"]])
def test_classes_that_would_shift_the_ids_are_refused(build, classes):
    with pytest.raises(Refusal, match=r"classes: found .*, expected each class once, and no back"):
        build(classes=classes)


def test_masks_of_other_names_are_refused(mine, build):
    pictures.write_mask(mine / "masks" / "a_mask.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(
        Refusal, match=r"of any image among 1 files, .* a_mask\.png; expected a\.png"
    ):
        build(masks="mine/masks", classes=["cat", "dog"])
    (mine / "masks" / "a_mask.png").unlink()
    with pytest.raises(Refusal, match="mine/masks: found no mask of any image among 0 files; exp"):
        build(masks="mine/masks", classes=["cat", "dog"])


def test_a_split_whose_images_all_have_masks_is_not_remarked_on(mine, build):
    pictures.write_mask(mine / "masks" / "a.png", np.zeros(SIZE, np.uint8))
    table = "id,labels,split\na,cat,train scored\nb,dog,train\n"
    (mine / "labels.csv").write_text(table)
    found = build(masks="mine/masks", classes=["cat", "dog"]).found
    assert [key for key in found if key.startswith("masks of")] == ["masks of train"]


def test_what_is_a_file_where_a_folder_is_expected_is_refused(build):
    said = r"labels.csv: is not a folder of images; mine: is not a CSV of id and labels"
    with pytest.raises(Refusal, match=said):
        build(images="mine/labels.csv", table="mine")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_refused_and_not_cut_off(mine, build, kind):
    name = "b.png" if kind == np.uint16 else "b.tif"
    (mine / "images" / "b.png").unlink()
    Image.fromarray(np.full(SIZE, 300, kind)).save(mine / "images" / name)
    with pytest.raises(Refusal, match=r"more than 8 bits a channel \(mode [IF].*save it with 8"):
        build()


def test_an_unknown_label_is_refused_with_the_nearest(build):
    with pytest.raises(Refusal, match=r"found the label 'dog', expected one of cat, dogs.*'dogs'"):
        build(classes=["cat", "dogs"])


def test_masks_need_the_order_of_the_classes(mine, build):
    (mine / "masks").mkdir()
    with pytest.raises(Refusal, match="classes: missing, expected the names of the ids 1, 2"):
        build(masks="mine/masks")


def test_two_images_of_one_id_are_refused(mine, build):
    pictures.write_jpeg(mine / "images" / "b.jpg", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(Refusal, match=r"b\.png: b\.jpg has the same id"):
        build()


@pytest.mark.parametrize(
    ("mask", "said"),
    [(np.zeros((3, 3), np.uint8), "3x3 here, its image 14x10"), (np.full(SIZE, 3), "label 3")],
)
def test_a_wrong_mask_is_refused(mine, build, mask, said):
    pictures.write_mask(mine / "masks" / "a.png", mask.astype(np.uint8))
    with pytest.raises(Refusal, match=f"id 'a' (is|has) {said}"):
        build(masks="mine/masks", classes=["cat", "dog"])


def test_paths_that_are_not_there_are_told_together(build):
    with pytest.raises(Refusal, match=r"x: no such path, .*; y: no such path"):
        build(images="x", table="y")
