"""A file or folder at its final name is whole; what a kill left is continued or thrown away."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fbr.errors import Refusal
from fbr.files import atomic, maps, pictures, tables, weights
from fbr.files.atomic import PartialFolder, link, replacing, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


MASK = np.zeros((3, 4), np.uint8)
WRITES = {
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: tables.write_json(path, {"a": 1}),
    "csv": lambda path: tables.write_csv(path, [{"a": 1}]),
    "mask": lambda path: pictures.write_mask(path, MASK),
    "grey": lambda path: pictures.write_grey(path, MASK),
    "jpeg": lambda path: pictures.write_jpeg(path, np.zeros((3, 4, 3), np.uint8)),
    "maps": lambda path: maps.write(path, maps.Maps(MASK[0, :0], MASK[None, :0], (3, 4))),
    "weights": lambda path: weights.write(path, nn.Linear(1, 1)),
}


@contextmanager
def full_disk():
    """No file can grow beyond one byte: the system refuses, whoever writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("before", [None, b"old"])
class TestWriters:
    @pytest.fixture
    def file(self, tmp_path, before):
        file = tmp_path / "folder" / "file"
        if before:
            file.parent.mkdir()
            file.write_bytes(before)
        return file

    def unchanged(self, file, before) -> bool:
        return names(file.parent) == (["file"] if before else []) and (
            not before or file.read_bytes() == before
        )

    def test_write_whole(self, file, before, kind):
        WRITES[kind](file)
        assert names(file.parent) == ["file"]
        assert file.read_bytes() not in (b"", before)

    def test_leave_nothing_on_a_full_disk(self, file, before, kind):
        with pytest.raises(OSError, match="File too large"), full_disk():
            WRITES[kind](file)
        assert self.unchanged(file, before)

    def test_leave_nothing_where_the_rename_fails(self, file, before, kind, monkeypatch):
        def refuse(*paths: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space left"):
            WRITES[kind](file)
        assert self.unchanged(file, before)


@pytest.mark.parametrize("kind", WRITES)
def test_a_file_is_no_folder_to_write_to(tmp_path, kind):
    (tmp_path / "file").write_text("old")
    with pytest.raises(NotADirectoryError, match=r"cannot be a folder to write to: .*file'"):
        WRITES[kind](tmp_path / "file" / "name")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path, error):
    def interrupted() -> None:
        with replacing(tmp_path / "file") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == []


def test_what_is_half_written_has_another_name(tmp_path):
    with replacing(tmp_path / "model.json") as partial:
        partial.write_text("half")
        assert names(tmp_path) == ["model.json.partial"]
    assert names(tmp_path) == ["model.json"]


class TestLink:
    def test_gives_the_same_file(self, tmp_path):
        source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
        source.write_text("a")
        link(source, target)
        assert target.samefile(source)

    @pytest.fixture
    def refuse(self):
        def refuse(*paths: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        return refuse

    def test_is_a_symlink_to_another_disk(self, tmp_path, monkeypatch, refuse):
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.chdir(tmp_path)
        Path("a.jpg").write_text("a")
        link(Path("a.jpg"), Path("b.jpg"))
        assert Path("b.jpg").is_symlink()
        assert Path("b.jpg").rename(tmp_path.parent / "c.jpg").read_text() == "a"

    def test_copies_where_it_cannot_link(self, tmp_path, monkeypatch, refuse):
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "symlink", refuse)
        source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
        source.write_text("a")
        link(source, target)
        assert target.read_text() == "a"
        assert not target.samefile(source)

    def test_a_source_replaced_since_the_last_try_replaces_the_target(self, tmp_path):
        source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
        source.write_text("broken")
        link(source, target)
        (tmp_path / "new").write_text("whole")
        (tmp_path / "new").rename(source)
        link(source, target)
        assert target.read_text() == "whole"

    def test_names_the_id_of_a_missing_file(self, tmp_path):
        with pytest.raises(Refusal, match="missing, expected the file of id '2007_000032'"):
            link(tmp_path / "2007_000032.jpg", tmp_path / "b.jpg")


class TestPartialFolder:
    @pytest.fixture
    def final(self, tmp_path):
        return tmp_path / "s0" / "masks"

    def started(self, final, key="k", *files: str) -> PartialFolder:
        folder = PartialFolder(final, key)
        for name in files:
            write_text(folder / name, name)
        return folder

    def test_becomes_the_folder(self, final):
        self.started(final, "k", "a", "b").finish()
        assert names(final.parent) == ["masks"]
        assert names(final) == ["a", "b"]

    def test_of_nothing_becomes_an_empty_folder(self, final):
        self.started(final).finish()
        assert names(final) == []

    def test_is_not_there_before(self, final):
        self.started(final, "k", "a")
        assert not final.exists()

    def test_continues_where_the_work_is_the_same(self, final):
        self.started(final, "k", "a")
        again = PartialFolder(final, "k")
        assert again.has("a")
        assert not again.has("b")

    def test_starts_afresh_where_it_is_not(self, final):
        self.started(final, "k", "a")
        again = PartialFolder(final, "other")
        assert not again.has("a")
        assert PartialFolder(final, "other").partial == again.partial
        again.finish()
        assert names(final) == []

    def test_replaces_an_older_one(self, final):
        self.started(final, "k", "a", "old").finish()
        again = self.started(final, "other", "a")
        assert names(final) == ["a", "old"]
        again.finish()
        assert names(final) == ["a"]

    def test_half_a_file_is_not_done_and_does_not_stay(self, final):
        folder = self.started(final, "k", "a")
        (folder / "b.partial").write_text("half")
        again = PartialFolder(final, "k")
        assert not again.has("b")
        again.finish()
        assert names(final) == ["a"]

    def test_without_a_marker_is_not_trusted(self, final):
        folder = self.started(final, "k", "a")
        (folder / ".key").unlink()
        assert not PartialFolder(final, "k").has("a")

    def test_has_no_marker_in_place(self, final):
        self.started(final).finish()
        assert not list(final.rglob(".key"))

    def test_a_kill_inside_finish_loses_no_whole_folder(self, final, monkeypatch):
        self.started(final, "k", "a").finish()
        folder = self.started(final, "other", "b")

        def killed(*paths: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(atomic.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.finish()
        monkeypatch.undo()
        # Either the old folder or none: never a mixture, and the work is done again or goes on.
        assert not final.exists() or names(final) == ["a"]
        self.started(final, "other", "b").finish()
        assert names(final) == ["b"]

    def test_a_kill_between_two_finishes_ends_in_the_same_folders(self, tmp_path):
        def work() -> tuple[PartialFolder, PartialFolder]:
            """As crf_refine does it: an image is done where both folders have it."""
            masks, seeds = (PartialFolder(tmp_path / n, "k") for n in ("masks", "seeds"))
            for name in "ab":
                if not (masks.has(name) and seeds.has(name)):
                    for folder in (masks, seeds):
                        write_text(folder / name, name)
            return masks, seeds

        work()[1].finish()
        assert names(tmp_path) == ["masks.partial", "seeds"]
        for folder in work():
            folder.finish()
        assert names(tmp_path) == ["masks", "seeds"]
        assert [names(tmp_path / n) for n in ("masks", "seeds")] == [["a", "b"]] * 2
