"""`fbr show`: which stages are behind a result, which picture each gives, and what is refused."""

import webbrowser

import numpy as np
import pytest

from fbr import cli
from fbr.datasets.prepared import Entry, write_index
from fbr.files import maps, pictures
from fbr.files.tables import write_json
from tests import checkout, untrained

ENTRIES = [
    Entry("a", 30, 40, ("val",), ()),
    Entry("b", 40, 36, ("train",), (1, 2)),
    Entry("c", 32, 50, ("test",), (2,)),
]
PLAIN = "results/toy/s0/plain"
SEG = f"{PLAIN}/crf/deeplabv2"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A workspace with a CAM and a mask of b, a network, and its prediction of a."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((checkout.ROOT / name).read_bytes())
    rng = np.random.default_rng(0)
    data = tmp_path / "data/toy"
    for entry in ENTRIES:
        size = (entry.height, entry.width)
        pictures.write_jpeg(data / f"images/{entry.id}.jpg", rng.integers(0, 256, (*size, 3), "u1"))
        if entry.id != "c":
            pictures.write_mask(data / f"masks/{entry.id}.png", rng.integers(0, 3, size, "u1"))
    write_index(data, ENTRIES, untrained.CLASSES)
    keys, cam = np.array([1, 2], np.uint8), rng.random((2, 10, 9), np.float32)
    maps.write(tmp_path / PLAIN / "cam_infer/cams/b.npz", maps.Maps(keys, cam, (40, 36)))
    for name in ("crf/seeds", "crf/masks", "superpixel/masks"):
        file = tmp_path / PLAIN / name / "b.png"
        pictures.write_mask(file, rng.integers(0, 3, (40, 36), "u1"))
    untrained.write(tmp_path / SEG / "seg_train", "seg_train")
    predicted = rng.integers(0, 3, (30, 40), "u1")
    pictures.write_mask(tmp_path / SEG / "seg_eval/pred/a.png", predicted)
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def said(capsys, *words: str) -> str:
    assert cli.main(["show", *words]) == 0
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        (PLAIN, "b: image, CAM plain, truth"),
        (f"{PLAIN}/cam_infer/cams", "b: image, CAM plain, truth"),
        (f"{PLAIN}/crf", "b: image, CAM plain, seeds crf, mask crf, truth"),
        (f"{PLAIN}/superpixel", "b: image, CAM plain, mask superpixel, truth"),
        (SEG, "b: image, CAM plain, seeds crf, mask crf, prediction deeplabv2, truth"),
        (
            f"{SEG}/seg_eval",
            "b: image, CAM plain, seeds crf, mask crf, prediction deeplabv2, truth",
        ),
    ],
)
def test_every_stage_behind_a_result_is_shown(place, capsys, run, steps):
    assert said(capsys, run, "--out", "page.html") == f"page.html: {steps}"
    page = (place / "page.html").read_text()
    assert page.count("<img ") == len(steps.split(", "))
    assert "cat, dog" in page


def test_what_is_not_there_is_left_out(place, capsys):
    steps = "a: image, prediction deeplabv2, truth"
    assert said(capsys, SEG, "--image", "a").endswith(f"s0-plain-crf-deeplabv2-a.html: {steps}")
    assert (place / "reports/toy/show/s0-plain-crf-deeplabv2-a.html").is_file()
    assert said(capsys, PLAIN, "--image", "c").endswith("c: image")


def test_a_tracking_run_leads_to_its_result(place, capsys):
    record = {"stage": "crf_refine", "data": "toy", "seed": "s0", "cam": "plain", "mask": "crf"}
    write_json(place / PLAIN / "crf/crf_refine/run.json", record | {"mlflow_run": "ab12"})
    assert "seeds crf, mask crf, truth" in said(capsys, "ab12")
    assert cli.main(["show", "ab13"]) == 2
    assert "fbr: ab13: found no result, expected a path" in capsys.readouterr().err


def test_a_picture_has_the_tiles_side_by_side(place, capsys):
    said(capsys, PLAIN, "--out", "row.png")
    height, width, _ = pictures.read_image(place / "row.png").shape
    assert width > 2.5 * height
    said(capsys, PLAIN, "--out", "row.jpg")
    assert pictures.read_size(place / "row.jpg") == (height, width)


def test_the_page_opens_only_where_there_is_a_display(place, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    said(capsys, PLAIN, "--out", "page.html")
    assert not opened
    monkeypatch.setenv("DISPLAY", ":0")
    said(capsys, PLAIN, "--out", "page.html")
    assert opened == [(place / "page.html").resolve().as_uri()]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("results/toy/s0",), "results/toy/s0: found no result, expected a path"),
        (("data",), "data: found no result, expected a path"),
        (("/tmp",), "/tmp: found no result, expected a path"),
        ((PLAIN, "--image", "d"), "--image: found no 'd' in the index."),
        ((PLAIN, "--out", "row.gif"), "--out: found 'row.gif', expected a name that ends in"),
    ],
)
def test_bad_input_is_one_line(place, capsys, words, line):
    before = set(place.rglob("*"))
    assert cli.main(["show", *words]) == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith(f"fbr: {line}")
    assert set(place.rglob("*")) == before
