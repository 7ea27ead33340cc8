"""The prepared folder: what is read is what the index says, or refused with its id."""

import numpy as np
import pytest

from fbr.datasets.prepared import Entry, Prepared, checked_ids, describe, read_image, write_index
from fbr.errors import Refusal
from fbr.files import pictures

NAMES = ["background", "cat", "dog", "train"]
ENTRIES = [
    Entry("a", 4, 6, ("train", "train_aug"), (1, 3)),
    Entry("b", 5, 3, ("train_aug",), ()),
    Entry("c", 1, 1, ("val",), (2,)),
]


@pytest.fixture
def folder(tmp_path):
    write_index(tmp_path, ENTRIES, NAMES)
    for entry in ENTRIES:
        shape = (entry.height, entry.width)
        pictures.write_jpeg(
            tmp_path / "images" / f"{entry.id}.jpg", np.zeros((*shape, 3), np.uint8)
        )
        for kind in ("masks", "instances", "companions"):
            pictures.write_mask(tmp_path / kind / f"{entry.id}.png", np.full(shape, 3, np.uint8))
    return tmp_path


@pytest.fixture
def data(folder):
    return Prepared(folder)


def test_the_index_comes_back(data):
    assert data.entries == ENTRIES
    assert data.classes == NAMES
    assert data.foreground == 3
    assert describe(data) == '{"images": 3, "train": 1, "train_aug": 2, "val": 1}'


def test_an_image_may_be_in_several_splits(data):
    assert [e.id for e in data.split("train_aug")] == ["a", "b"]
    assert [e.id for e in data.split("train")] == ["a"]


def test_an_empty_split_is_refused_with_the_nearest(data):
    with pytest.raises(Refusal, match=r"split 'vall' is empty, .* train, train_aug, val. .* 'val'"):
        data.split("vall")


def test_a_dataset_without_images_has_no_split(tmp_path):
    write_index(tmp_path, [], NAMES)
    with pytest.raises(Refusal, match=r"split 'train' is empty, expected one of \(none\)"):
        Prepared(tmp_path).split("train")


def test_labels_are_one_where_a_class_is(data):
    assert data.labels(ENTRIES).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert data.labels([]).shape == (0, 3)
    assert data.labels(ENTRIES).dtype == np.float32


def test_pictures_have_the_size_of_the_index(data):
    for entry in ENTRIES:
        assert data.image(entry).shape == (entry.height, entry.width, 3)
        for read in (data.mask, data.instances, data.companions):
            assert read(entry).shape == (entry.height, entry.width)
        assert np.array_equal(read_image(data.folder, entry), data.image(entry))


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("masks", "mask"),
        ("instances", "instances"),
        ("companions", "companions"),
        ("images", "image"),
    ],
)
def test_another_size_is_refused_with_the_id(data, kind, read):
    file = data.folder / kind / ("a.jpg" if kind == "images" else "a.png")
    if kind == "images":
        pictures.write_jpeg(file, np.zeros((6, 4, 3), np.uint8))
    else:
        pictures.write_mask(file, np.zeros((6, 4), np.uint8))
    with pytest.raises(Refusal, match=r"id 'a' is 4x6 here, expected 6x4 as in index.csv"):
        getattr(data, read)(ENTRIES[0])


@pytest.mark.parametrize(
    ("label", "fine"), [(0, True), (3, True), (255, True), (4, False), (254, False)]
)
def test_labels_are_ids_or_void(data, label, fine):
    mask = np.zeros((4, 6), np.uint8)
    mask[3, 5] = label
    pictures.write_mask(data.folder / "masks" / "a.png", mask)
    if fine:
        assert np.array_equal(data.mask(ENTRIES[0]), mask)
    else:
        with pytest.raises(Refusal, match=f"id 'a' has label {label}, expected 0 to 3, or 255"):
            data.mask(ENTRIES[0])


def test_instances_are_no_class_ids(data):
    pictures.write_mask(data.folder / "instances" / "a.png", np.full((4, 6), 200, np.uint8))
    assert data.instances(ENTRIES[0]).max() == 200


def test_companions_are_class_ids(data):
    assert data.companions(ENTRIES[0]).tolist() == [[3] * 6] * 4
    pictures.write_mask(data.folder / "companions" / "a.png", np.full((4, 6), 4, np.uint8))
    with pytest.raises(Refusal, match="id 'a' has label 4, expected 0 to 3"):
        data.companions(ENTRIES[0])


def test_no_class_at_all_leaves_background_and_void(tmp_path):
    mask = np.array([[0, 255]], np.uint8)
    assert checked_ids(mask, 0, tmp_path / "a.png") is mask
    with pytest.raises(Refusal, match="label 1, expected 0 to 0"):
        checked_ids(mask + 1, 0, tmp_path / "a.png")


def test_a_missing_picture_names_the_id(data):
    (data.folder / "masks" / "a.png").unlink()
    assert not data.has("masks", ENTRIES[0])
    assert data.has("instances", ENTRIES[0])
    with pytest.raises(Refusal, match="expected the file of id 'a'"):
        data.mask(ENTRIES[0])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,width,height,split\na,6,4,train\n", "not an index .*'classes'"),
        ("id,width,height,split,classes\na,6,x,train,1\n", "not an index .*'x'"),
        ("id,width,height,split,classes\na,6,4,train,cat\n", "not an index .*'cat'"),
        ("id,width,height,split,classes\na,6,4\n", "not an index"),
        ("id,width,height,split,classes\na,6,4,train,4\n", r"id 'a' has classes \(4,\), .* 1 to 3"),
        ("id,width,height,split,classes\na,6,4,train,0\n", r"id 'a' has classes \(0,\), .* 1 to 3"),
    ],
)
def test_another_index_is_refused(folder, content, said):
    (folder / "index.csv").write_text(content)
    with pytest.raises(Refusal, match=f"index.csv: {said}.*run prepare again"):
        Prepared(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}"])
def test_other_class_names_are_refused(folder, content):
    (folder / "classes.json").write_text(content)
    with pytest.raises(
        Refusal, match=r"classes.json: not a table of class names.*run prepare again"
    ):
        Prepared(folder)


def test_a_folder_that_is_not_prepared_says_so(tmp_path):
    with pytest.raises(Refusal, match=r"classes.json: missing; run the stage that writes it"):
        Prepared(tmp_path)


def test_a_smaller_saliency_map_is_read_at_the_size_of_its_image(data, folder):
    small = np.array([[0, 200, 200], [0, 200, 200]], np.uint8)
    pictures.write_grey(folder / "saliency" / "a.png", small)
    read = data.saliency(ENTRIES[0])
    assert read.shape == (4, 6)
    assert read.dtype == np.uint8
    assert read[[0, 3], [0, 5]].tolist() == [0, 200]
    assert read.flags.c_contiguous


def test_a_saliency_map_of_its_image_s_size_is_read_as_it_is(data, folder):
    whole = np.arange(24, dtype=np.uint8).reshape(4, 6)
    pictures.write_grey(folder / "saliency" / "a.png", whole)
    assert np.array_equal(data.saliency(ENTRIES[0]), whole)


def test_a_saliency_map_of_another_shape_is_refused_with_its_id(data, folder):
    pictures.write_grey(folder / "saliency" / "a.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(Refusal, match="id 'a' is 4x6 here, expected 6x4"):
        data.saliency(ENTRIES[0])
