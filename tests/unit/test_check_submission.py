"""`fbr check-submission` in a workspace with a prepared dataset."""

import shutil

import numpy as np
import pytest

from fbr import cli
from fbr.datasets.prepared import Entry, write_index
from fbr.files import pictures
from fbr.files.submission import pack
from tests.checkout import ROOT

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """One of 25 images of the test split, where the voc block of params.yaml wants them."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    entries = [Entry(f"{n:02}", 4, 6, ("test",), ()) for n in range(25)]
    entries.append(Entry("v", 9, 9, ("val",), (1,)))
    write_index(tmp_path / "data/voc", entries, ["background", "cat"])
    for entry in entries:
        pictures.write_mask(tmp_path / f"pred/{entry.id}.png", np.ones((4, 6), np.uint8))
    path = tmp_path / "mine.tar.gz"
    pack(path, tmp_path / "pred", [e.id for e in entries[:-1]], INSIDE)
    return path


def test_a_good_one_is_one_line(archive, capsys):
    assert cli.main(["check-submission", str(archive)]) == 0
    assert capsys.readouterr().out == f"{archive}: fine, 25 masks of voc, test\n"


def test_a_bad_one_is_a_line_for_each_problem_and_two(archive, capsys, tmp_path):
    for n in range(3):
        pictures.write_mask(tmp_path / f"pred/{n:02}.png", np.full((4, 6), 2, np.uint8))
    pack(archive, tmp_path / "pred", [f"{n:02}" for n in range(24)], INSIDE)
    assert cli.main(["check-submission", str(archive), "--data", "voc"]) == 2
    lines = capsys.readouterr().out.splitlines()
    wrong = [f"{archive}: {INSIDE}/{n:02}.png holds ids up to 2, expected 0 to 1" for n in range(3)]
    assert lines == [*wrong, f"{archive}: 1 masks missing, the first is {INSIDE}/24.png"]


def test_after_twenty_lines_the_rest_is_counted(archive, capsys, tmp_path):
    pack(archive, tmp_path / "pred", [f"{n:02}" for n in range(25)], "elsewhere")
    assert cli.main(["check-submission", str(archive)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert lines[-1] == f"{archive}: and 6 more"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no.tar.gz"], "fbr: no.tar.gz: not found; name a .tar.gz of masks"),
        (["mine.tar.gz", "--data", "vok"], "fbr: --data: found 'vok', expected one of toy, voc"),
        (["mine.tar.gz", "--data", "toy"], "fbr: data/toy/classes.json"),
    ],
)
def test_what_cannot_be_checked_is_refused(archive, words, said, capsys):
    assert cli.main(["check-submission", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
