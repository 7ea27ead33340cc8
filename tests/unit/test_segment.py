"""`fbr segment` on drawn photographs."""

import re

import numpy as np
import pytest
from PIL import Image

from fbr import cli
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.segment import LONG_SIDE, MOST, main, segment
from fbr.workspace import Workspace


def photograph(height: int, width: int) -> np.ndarray:
    """Two colours, left and right."""
    image = np.full((height, width, 3), (200, 60, 40), np.uint8)
    image[:, width // 2 :] = (50, 90, 180)
    return image


def test_regions_and_an_overlay_lie_beside_the_image(tmp_path, capsys):
    path = tmp_path / "two.jpg"
    pictures.write_jpeg(path, photograph(40, 60))
    assert cli.main(["segment", str(path), "--superpixels", "40", "--regions", "2"]) == 0
    regions = pictures.read_mask(tmp_path / "two_regions.png")
    assert regions.shape == (40, 60)
    assert (regions == np.where(np.arange(60) < 30, 1, 2)).mean() > 0.97
    assert pictures.read_image(tmp_path / "two_overlay.jpg").shape == (40, 60, 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: 60×40, ")
    assert line.endswith(" superpixels in 2 regions: two_regions.png, two_overlay.jpg")


def test_each_image_has_a_line_and_all_go_where_they_are_sent(tmp_path, capsys):
    for name in "ab":
        pictures.write_jpeg(tmp_path / f"{name}.jpg", photograph(9, 12))
    images = [str(tmp_path / f"{name}.jpg") for name in "ab"]
    assert cli.main(["segment", *images, "--out", str(tmp_path / "new" / "place")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert len(list((tmp_path / "new/place").iterdir())) == 4


@pytest.mark.parametrize("out", ["../d", "link", "."])
def test_no_photograph_that_is_given_is_written_over(tmp_path, monkeypatch, out):
    """However the folder is spelled that it lies in."""
    place = tmp_path / "d"
    place.mkdir()
    (place / "link").symlink_to(".")
    for name in ("q.jpg", "q_overlay.jpg"):
        pictures.write_jpeg(place / name, np.full((8, 9, 3), 90, np.uint8))
    before = (place / "q_overlay.jpg").read_bytes()
    monkeypatch.chdir(place)
    with pytest.raises(Refusal, match=r"is given, and what is made of q\.jpg"):
        main(["q.jpg", "q_overlay.jpg", "--out", out], Workspace())
    with pytest.raises(Refusal, match="two images have one name"):
        main(["q.jpg", "link/q.jpg"], Workspace())
    assert (place / "q_overlay.jpg").read_bytes() == before


def test_a_photograph_on_its_side_has_upright_regions(tmp_path, capsys):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 8
    Image.fromarray(np.rot90(photograph(9, 12), -1)).save(tmp_path / "a.jpg", exif=exif)
    assert cli.main(["segment", str(tmp_path / "a.jpg"), "--superpixels", "9"]) == 0
    assert ": 12×9, " in capsys.readouterr().out
    assert pictures.read_mask(tmp_path / "a_regions.png").shape == (9, 12)
    assert pictures.read_size(tmp_path / "a_overlay.jpg") == (9, 12)


def test_more_regions_than_a_picture_can_number_are_merged_further():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    begun, regions = segment(noise, 1600, 1, least=2.0)
    assert begun == 1600
    assert [*np.unique(regions)] == [*range(1, MOST + 1)]


def test_regions_that_share_no_colour_are_merged_too():
    board = np.zeros((20, 20, 3), np.uint8)
    board[..., 2] = 255 * (np.indices((20, 20)).sum(0) % 2)
    board[..., :2] = 255 - board[..., 2:]
    _, regions = segment(board, 400, 1, least=2.0)
    assert [*np.unique(regions)] == [*range(1, MOST + 1)]


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (3, LONG_SIDE + 501)])
def test_any_size_comes_back_as_it_was(size):
    _, regions = segment(photograph(*size), 20, 2, 0.5)
    assert regions.shape == size
    assert regions.dtype == np.uint8
    assert regions.min() == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no.jpg"], "no.jpg: missing"),
        (["no.txt"], "no.txt: cannot be read as a picture"),
        (["a/x.jpg", "b/x.png", "--out", "here"], "two images have one name"),
        (["x.jpg", "--regions", "300"], "found --regions 300"),
        (["x.jpg", "--superpixels", "0"], "found .*--superpixels 0"),
        (["x.jpg", "--superpixels", "90000"], "found .*--superpixels 90000, .* from 1 to 10000"),
        (["x.jpg", "./x_overlay.jpg"], "x_overlay.jpg: is given, and what is made of x.jpg"),
        (["x.jpg", "--least", "nan"], "found --least nan, expected a likeness"),
        (["x.jpg", "--out", "no.txt"], "no.txt: is a file, expected a folder"),
        (["."], r"\.: is a folder, expected photographs"),
    ],
)
def test_what_cannot_be_segmented_is_refused(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.txt").write_text("hello")
    assert cli.main(["segment", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"fbr: {said}", line)
