"""COCO from annotation files written here."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fbr.datasets import coco
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import CocoSource

SIZE = (8, 10)
SOURCE = CocoSource(source="coco", root="coco")
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def thing(category: int, segmentation, area: float, crowd: int = 0, image: int = 7) -> dict:
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
    }


def runs(mask: np.ndarray) -> dict:
    """Uncompressed run lengths, column by column, zeros first."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


ANNOTATIONS = [thing(18, box(0, 0, 4, 4), 16), thing(1, box(1, 1, 3, 3), 4)]


@pytest.fixture
def root(tmp_path):
    for split, id in (("train", 7), ("val", 9)):
        folder = f"{split}2014"
        name = f"COCO_{folder}_{id:012d}.jpg"
        pictures.write_jpeg(tmp_path / "coco" / folder / name, np.zeros((*SIZE, 3), np.uint8))
        content = {
            "categories": CATEGORIES,
            "images": [{"id": id, "file_name": name, "height": SIZE[0], "width": SIZE[1]}],
            "annotations": ANNOTATIONS,
        }
        file = tmp_path / "coco" / "annotations" / f"instances_{folder}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    names = ("images", "masks", "instances", "saliency", "companions")
    return {name: PartialFolder(tmp_path / "data" / name, "k") for name in names}


def change(root, edit) -> None:
    file = root / "coco" / "annotations" / "instances_train2014.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_images_are_linked_and_annotations_painted(root, folders):
    entries, names, found = coco.build(SOURCE, root, folders)
    assert found["objects"] == 2
    train, val = "COCO_train2014_000000000007", "COCO_val2014_000000000009"
    assert names == ["background", "person", "dog"]
    assert [(e.id, e.splits, e.classes) for e in entries] == [
        (train, ("train",), (1, 2)),
        (val, ("val",), ()),
    ]
    assert all((e.height, e.width) == SIZE for e in entries)
    assert (folders["images"] / f"{val}.jpg").is_file()
    mask = pictures.read_mask(folders["masks"] / f"{train}.png")
    assert np.bincount(mask.ravel()).tolist() == [64, 4, 12]
    assert pictures.read_mask(folders["masks"] / f"{val}.png").max() == 0
    assert pictures.read_mask(folders["instances"] / f"{train}.png").max() == 2


def test_small_objects_lie_over_large_ones_whatever_their_order():
    number = {1: 1, 18: 2}
    mask, instances = coco.paint(ANNOTATIONS, SIZE, number)
    again = coco.paint(ANNOTATIONS[::-1], SIZE, number)
    assert np.array_equal(mask, again[0])
    assert np.array_equal(instances, again[1])
    expected = np.zeros(SIZE, np.uint8)
    expected[:4, :4] = 2
    expected[1:3, 1:3] = 1
    assert np.array_equal(mask, expected)


def test_crowds_are_void_and_never_cover_an_object():
    crowd = np.zeros(SIZE, np.uint8)
    crowd[:, 2:] = 1
    everything = [thing(1, runs(crowd), 64, crowd=1), *ANNOTATIONS]
    mask, instances = coco.paint(everything, SIZE, {1: 1, 18: 2})
    assert (mask[:4, :4] != 255).all()
    assert (mask[4:, 2:] == 255).all()
    assert np.array_equal(mask == 255, instances == 255)
    assert set(np.unique(instances)) == {0, 1, 2, 255}


def test_runs_and_polygons_are_the_same():
    inside = np.zeros(SIZE, np.uint8)
    inside[0:4, 0:4] = 1
    one, _ = coco.paint([thing(1, runs(inside), 16)], SIZE, {1: 1})
    other, _ = coco.paint([thing(1, box(0, 0, 4, 4), 16)], SIZE, {1: 1})
    assert np.array_equal(one, other)


def test_an_image_without_objects_is_background():
    mask, instances = coco.paint([], SIZE, {})
    assert mask.max() == instances.max() == 0


def test_the_largest_254_objects_are_kept():
    many = [thing(1, box(x % 20, x // 20, x % 20 + 1, x // 20 + 1), 400 - x) for x in range(300)]
    _, instances = coco.paint(many, (20, 20), {1: 1})
    assert sorted(np.unique(instances)) == list(range(255))
    assert instances.ravel()[:254].tolist() == list(range(1, 255))


def test_what_must_be_fetched_is_told_together(tmp_path, folders):
    assert len(coco.missing(SOURCE, tmp_path)) == 3
    with pytest.raises(
        Refusal, match=r"COCO is not there yet: coco/train2014: COCO 2014: .*val2014"
    ):
        coco.build(SOURCE, tmp_path, folders)


def test_nothing_is_missing_from_a_whole_download(root):
    assert coco.missing(SOURCE, root) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', "3"])
def test_another_file_is_refused(root, folders, content):
    (root / "coco" / "annotations" / "instances_val2014.json").write_text(content)
    with pytest.raises(Refusal, match=r"instances_val2014.json: not COCO's instance annotations"):
        coco.build(SOURCE, root, folders)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda c: c["annotations"][0].update(category_id=99), "an object .* KeyError.99"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "an object .* is wrong"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "an object .* is wrong"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, None, 3, 1, 3, 3]]), "polygon"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 1e12, 3, 1, 3, 3]]), "polygon"),
        (lambda c: c["annotations"][0].pop("area"), "an object .* is wrong"),
        (lambda c: c["images"][0].update(height=9), "is 10x9 here, its file 10x8"),
    ],
)
def test_a_wrong_annotation_names_the_image(root, folders, edit, said):
    change(root, edit)
    with pytest.raises(Refusal, match=f"image 'COCO_train2014_000000000007'.*{said}"):
        coco.build(SOURCE, root, folders)


def test_a_missing_image_names_the_id(root, folders):
    change(root, lambda c: c["images"][0].update(file_name="COCO_train2014_000000000008.jpg"))
    with pytest.raises(Refusal, match="expected the file of id 'COCO_train2014_000000000008'"):
        coco.build(SOURCE, root, folders)


def test_labels_of_the_annotations_keep_what_is_covered_or_crowded(root, folders):
    hidden = [thing(1, box(1, 1, 3, 3), 30), thing(18, box(0, 0, 4, 4), 16)]
    change(root, lambda c: c.update(annotations=hidden))
    seen, named = (
        coco.build(SOURCE.model_copy(update={"labels": labels}), root, folders)
        for labels in ("masks", "json")
    )
    assert [e.classes for e in seen.entries] == [(2,), ()]
    assert [e.classes for e in named.entries] == [(1, 2), ()]
    assert named.found["images whose labels and mask differ"] == 1


def test_boxes_paint_what_whole_pictures_do():
    rng = np.random.default_rng(0)
    things = []
    for number in range(60):
        corners = rng.uniform(-4, 34, (rng.integers(3, 9), 2)).ravel().tolist()
        things.append(thing(1 + number % 3, [corners], rng.uniform(1, 400)))
    size, number = (30, 27), {1: 1, 2: 2, 3: 3}
    mask, instances = coco.paint(things, size, number)
    expected, numbers = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for count, one in enumerate(sorted(things, key=lambda t: -t["area"]), start=1):
        inside = coco_mask.decode(
            coco_mask.merge(coco_mask.frPyObjects(one["segmentation"], *size))
        )
        for y, x in np.argwhere(inside):
            expected[y, x], numbers[y, x] = number[one["category_id"]], count
    assert np.array_equal(mask, expected)
    assert np.array_equal(instances, numbers)


def test_what_a_killed_run_painted_is_not_painted_again(root, folders, monkeypatch):
    first = coco.build(SOURCE, root, folders)
    monkeypatch.setattr(coco, "paint", None)
    assert coco.build(SOURCE, root, folders) == first


@pytest.mark.parametrize(
    ("folder", "named"), [("coco/Saliency", None), ("maps", "maps"), ("coco/other/Saliency", None)]
)
def test_saliency_is_taken_and_its_share_told(root, folders, folder, named):
    train = "COCO_train2014_000000000007"
    grey = np.arange(80, dtype=np.uint8).reshape(SIZE)
    pictures.write_grey(root / folder / f"{train}_sal.png", grey)
    source = SOURCE.model_copy(update={"saliency": named})
    built = coco.build(source, root, folders)
    assert built.found["saliency"] == {"train": "1 of 1", "val": "0 of 1"}
    assert np.array_equal(pictures.read_grey(folders["saliency"] / f"{train}.png"), grey)


def test_a_named_folder_of_saliency_comes_before_the_one_beside(root, folders):
    for folder, value in (("coco/Saliency", 1), ("maps", 2)):
        file = root / folder / "COCO_val2014_000000000009.png"
        pictures.write_grey(file, np.full(SIZE, value, np.uint8))
    coco.build(SOURCE.model_copy(update={"saliency": "maps"}), root, folders)
    assert pictures.read_grey(folders["saliency"] / file.name).max() == 2


def test_without_saliency_nothing_is_said_of_it(root, folders):
    assert "saliency" not in coco.build(SOURCE, root, folders).found


@pytest.mark.parametrize(
    ("map_of", "size", "said"),
    [
        ("COCO_train2014_000000000008", SIZE, "no saliency map of any image among its 1 pictures"),
        ("COCO_train2014_000000000007", SIZE[::-1], "8x10 cannot be of id '.*7', which is 10x8"),
        (None, SIZE, "no such folder, expected saliency maps"),
    ],
)
def test_saliency_of_other_images_is_refused(root, folders, map_of, size, said):
    if map_of:
        pictures.write_grey(root / "maps" / f"{map_of}.png", np.zeros(size, np.uint8))
    with pytest.raises(Refusal, match=f"maps.*: .*{said}"):
        coco.build(SOURCE.model_copy(update={"saliency": "maps"}), root, folders)


def test_the_root_may_be_a_folder_above(root, folders):
    source = SOURCE.model_copy(update={"root": "."})
    assert len(coco.build(source, root, folders).entries) == 2


def test_what_was_fetched_is_looked_for_where_archives_lie(root, folders):
    (root / "downloads").mkdir()
    (root / "coco").rename(root / "downloads" / "coco")
    assert len(coco.missing(SOURCE, root)) == 3
    archives = {"train": {"urls": ["http://127.0.0.1:1/train2014.zip"]}}
    source = CocoSource(source="coco", root="coco", archives=archives)
    assert len(coco.build(source, root, folders).entries) == 2
