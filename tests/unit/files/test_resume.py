"""Fingerprints tell the same work from other work."""

import os

import pytest

from fbr.files.resume import fingerprint


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_text(name)
        os.utime(folder / name, ns=(1, 1))
    return folder


def test_equal_parts_are_equal(folder):
    file = folder / "a.png"
    assert fingerprint("x", 1, file, folder) == fingerprint("x", 1, file, folder)


def test_a_file_counts_by_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("a")
    assert fingerprint(one) == fingerprint(other)
    other.write_text("b")
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "c.png").touch(),
        lambda folder: (folder / "a.png").unlink(),
        lambda folder: (folder / "a.png").rename(folder / "c.png"),
        lambda folder: (folder / "a.png").write_text("longer than before"),
        lambda folder: os.utime(folder / "a.png", ns=(2, 2)),
    ],
)
def test_a_folder_counts_by_names_sizes_and_times(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before


def test_a_folder_may_be_empty(tmp_path):
    assert fingerprint(tmp_path) == fingerprint(tmp_path)


@pytest.mark.parametrize("other", [("ab",), ("a", "b", ""), ("b", "a"), ("a", None), (1, "b")])
def test_parts_do_not_run_together(other):
    assert fingerprint("a", "b") != fingerprint(*other)


def test_an_input_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "nothing")
