"""Unpack a tar or zip that a stranger made: nothing outside the folder, no links, no bombs."""

import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from fbr.errors import Refusal
from fbr.files.atomic import PARTIAL, replacing

LARGEST = 1 << 24  # bytes that one read takes, of a header above all; no header needs as much
TAIL = 1 << 26  # bytes behind the end mark that are read to come to the checksum
GROWTH = 50  # times its packed size is more than photographs, masks and annotations ever unpack to
SMALL = 1 << 20  # bytes that any archive may unpack to
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,  # a password is wanted
    ValueError,  # a header that is no number, a name that is no text
    # A member below another one that is a file:
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)


class _Member(NamedTuple):
    """One member of an archive, still packed; what is no plain file cannot be opened."""

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None = None


def unpack(
    archive: Path, folder: Path, told: Callable[[int], None] = lambda files: None
) -> list[str]:
    """Unpack all plain files below `folder`; return the names of links and devices left out.

    What `folder` has is not unpacked again. Until all of it is there the rest lies in `half(…)`,
    where a killed run goes on. A name that leads out of the folder condemns the whole archive.
    """
    partial, odd, files, bytes_in_all = half(archive, folder), [], 0, 0
    partial.mkdir(parents=True, exist_ok=True)
    most = max(SMALL, GROWTH * archive.stat().st_size)
    try:
        for member in _members(archive, odd):
            bytes_in_all += tarfile.BLOCKSIZE + member.size  # so many empty files are no less
            if bytes_in_all > most:
                raise Refusal(
                    f"{archive}: unpacks to more than {GROWTH} times its size, as no data set "
                    "does; delete it and fetch it from another mirror"
                )
            if member.open is None:
                continue
            path = _safe(member.name, archive)
            if not any(_has(base / path, member.size) for base in (folder, partial)):
                _copy(member, partial / path)
            files += 1
            told(files)
    except BROKEN as error:
        shutil.rmtree(partial)
        said = " ".join(str(error).split()) or type(error).__name__
        raise Refusal(
            f"{archive}: broken ({said}); delete it and run again to fetch it anew"
        ) from None
    except Refusal:
        shutil.rmtree(partial)
        raise
    for file in [path for path in partial.rglob("*") if path.is_file()]:
        target = folder / file.relative_to(partial)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise Refusal(
                f"{target}: {archive} has a file here, and what lies there is in its way; "
                "move it away and run again"
            ) from None
    shutil.rmtree(partial)
    return odd


def half(archive: Path, folder: Path) -> Path:
    """Where an archive is unpacked at first: while this is there, `folder` may hold half of it."""
    return folder / f".{archive.name}{PARTIAL}"


def _members(archive: Path, odd: list[str]) -> Iterator[_Member]:
    """All members in the archive's order; the names of links and devices come to `odd`, too."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = info.external_attr >> 28  # of a Unix mode; 0 where there is none
                if info.is_dir():
                    yield _Member(info.filename, 0)
                elif kind not in (0, 0o10):
                    odd.append(info.filename)
                    yield _Member(info.filename, 0)
                else:
                    yield _Member(info.filename, info.file_size, lambda i=info: packed.open(i))
        return
    with _Tar.open(archive) as packed:
        for info in packed:
            if info.isreg():
                yield _Member(info.name, info.size, lambda i=info: packed.extractfile(i))
                continue
            if not info.isdir():
                odd.append(info.name)
            yield _Member(info.name, 0)
        read_to_end(packed)


class _Tar(tarfile.TarFile):
    """A tar whose headers are not believed either, packed or not."""

    def __init__(
        self, name: str, mode: str, fileobj: IO[bytes] | None = None, **given: Any
    ) -> None:
        # A plain tar is no larger than it is; only what is unpacked can grow.
        super().__init__(name, mode, None if fileobj is None else Wary(fileobj), **given)


class Wary:
    """A stream that hands out little at a time: tarfile reads as much as a header claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self.close, self._read = (
            stream.seek,
            stream.tell,
            stream.close,
            stream.read,
        )

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self._read(size)


def read_to_end(packed: tarfile.TarFile) -> None:
    """Raise if a tar whose members have been read was cut, or its checksum is wrong."""
    # One that was cut between two members looks whole but for the empty block at its end.
    packed.fileobj.seek(packed.offset)
    if packed.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends before its end mark")
    # The checksum of a tar.gz is looked at where it ends.
    for _ in range(TAIL >> 20):
        if not packed.fileobj.read(1 << 20):
            return
    raise tarfile.ReadError("it goes on behind its end mark")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    lengths = [len(os.fsencode(part)) for part in path.parts]
    # A member called as half-written files are would be taken for one.
    half_written = any(part.endswith(PARTIAL) for part in path.parts)
    odd = not lengths or max(lengths) > 200 or sum(lengths) > 1000 or half_written
    odd = odd or set(name) & set("\\:\0")
    if odd or path.is_absolute() or ".." in path.parts:
        raise Refusal(
            f"{archive}: holds {name[:80]!r}, which is no name of a file below the folder it is "
            "unpacked in; do not trust it, delete it and fetch it from another mirror"
        )
    return path


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _copy(member: _Member, target: Path) -> None:
    with member.open() as packed, replacing(target) as partial:
        with open(partial, "wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        if (found := partial.stat().st_size) != member.size:
            raise tarfile.ReadError(f"{member.name} has {found} bytes, expected {member.size}")
