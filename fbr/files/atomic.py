"""Writes that are there whole or not at all, and folders that continue after a kill."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fbr.errors import Refusal

PARTIAL = ".partial"  # ends the name of what is half written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield `path.partial` to write to; it becomes `path` at the end, unless an error came."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError):  # a file has that name, or /proc is asked
        where = str(path.parent)
        raise NotADirectoryError(errno.ENOTDIR, "cannot be a folder to write to", where) from None
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say whom it hit
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 file whole."""
    write_bytes(path, content.encode())


def link(source: Path, target: Path) -> None:
    """Link a file where the file system can, by a symlink where only that is possible, or copy it.

    A symlink, to another disk, is as good as the file for whoever reads it, and takes no room.
    """
    if target.exists() and source.exists() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    if not source.is_file():
        raise Refusal(f"{source}: missing, expected the file of id '{source.stem}'")
    with suppress(OSError):
        return os.link(source, target)
    with suppress(OSError):
        return os.symlink(source.resolve(), target)
    with replacing(target) as partial:
        shutil.copyfile(source, partial)


class PartialFolder:
    """A folder of one file per image, built as `<folder>.partial` and renamed when complete.

    What a killed run left behind is taken up again where the same work is to be done (`key`: the
    fingerprint of parameters and inputs), else thrown away. Both engines delete a declared output
    before a job; the partial folder is undeclared and survives.
    """

    def __init__(self, folder: Path, key: str, *, fresh: bool = False) -> None:
        self.folder = folder
        self.partial = folder.with_name(folder.name + ".partial")
        marker = self.partial / ".key"
        if fresh or not marker.is_file() or marker.read_text() != key:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            write_text(marker, key)

    def __truediv__(self, name: str) -> Path:
        return self.partial / name

    def has(self, name: str) -> bool:
        """Whether an earlier run wrote this file."""
        return (self.partial / name).exists()

    def finish(self) -> None:
        """Put the folder in its place."""
        for leftover in self.partial.rglob("*.partial"):
            leftover.unlink()
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(self.partial, self.folder)
        (self.folder / ".key").unlink()
