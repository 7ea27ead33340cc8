"""Annotation files read in passing say what json.load says, however they are written."""

import io
import json

import numpy as np
import pytest

from fbr.datasets import coco_json
from fbr.datasets.coco_json import Instances, items, objects
from fbr.errors import Refusal

CONTENT = {
    "info": {"year": 2014, "nested": [1, {"a": []}]},
    "number": 12345678901234567890,
    "images": [
        {"id": 9, "file_name": "b/ö.jpg", "height": 4, "width": 5},
        {"id": 3, "file_name": "a.jpg", "height": 6, "width": 7},
    ],
    "empty": [],
    "annotations": [
        {"image_id": 9, "category_id": 18, "segmentation": [[i + 0.5] * 8], "note": 'ö"]}\\ é'}
        for i in range(40)
    ]
    + [{"image_id": 5, "category_id": 1, "segmentation": []}],
    "categories": [{"id": 18, "name": "hündchen"}, {"id": 1, "name": "person"}],
}


def write(path, **options):
    path.write_text(json.dumps(CONTENT, **options), encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":")}], ids=str)
def test_items_are_those_of_json(monkeypatch, chunk, options):
    monkeypatch.setattr(coco_json, "CHUNK", chunk)
    text = json.dumps(CONTENT, **options)
    found = {}
    for key, value, begin, end in items(io.StringIO(text)):
        if isinstance(CONTENT[key], list):
            found.setdefault(key, []).append(value)
            assert json.loads(text[begin:end]) == value
        else:
            found[key] = value
    assert found == {k: v for k, v in CONTENT.items() if v != []}


@pytest.mark.parametrize("ascii", [True, False])
def test_images_come_by_id_with_their_objects(tmp_path, monkeypatch, ascii):
    monkeypatch.setattr(coco_json, "CHUNK", 64)
    file = write(tmp_path / "a.json", ensure_ascii=ascii)
    found = Instances(file)
    assert found.categories == {1: "person", 18: "hündchen"}
    first, second = found
    assert first[:3] == ("a.jpg", 6, 7)
    assert second[:3] == ("ö.jpg", 4, 5)
    assert objects(file, first.spans) == []
    assert objects(file, second.spans) == CONTENT["annotations"][:40]
    assert len(found) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{",
        '{"images": [',
        '{"images": [{"id": 1}]}',
        '{"images": [], "annotations": []}',
        '{"images": [1 2], "annotations": [], "categories": []}',
        '{"images": [{"id": 1, "file_name": 3, "height": 1, "width": 1}'
        '], "annotations": [], "categories": []}',
        '{"images": [{"id": "a", "file_name": "a", "height": 1, "width": 1}'
        '], "annotations": [{"image_id": "a"}], "categories": []}',
    ],
)
def test_another_file_is_refused(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(Refusal, match="not COCO's instance annotations"):
        Instances(file)


def test_a_cut_file_is_refused_wherever_it_ends(tmp_path):
    file = write(tmp_path / "a.json")
    content = file.read_bytes()
    for length in np.linspace(1, len(content) - 1, 60).astype(int):
        file.write_bytes(content[:length])
        with pytest.raises(Refusal, match="not COCO's instance annotations"):
            Instances(file)
