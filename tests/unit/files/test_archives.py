"""Archives of strangers: what is right is unpacked whole, all else is one line and no file."""

import gzip
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from fbr.errors import Refusal
from fbr.files import archives
from fbr.files.archives import half, unpack

FILES = {"kit/JPEGImages/a.jpg": b"a" * 700, "kit/sets/train.txt": b"a\n", "kit/empty": b""}


def tar(path: Path, files: dict[str, bytes] = FILES, *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as file:
        folder = tarfile.TarInfo("kit")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for info in odd:
            file.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o000
            file.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("kit/", b"")
        for name, content in files.items():
            file.writestr(name, content)
    return path


MAKERS = {"a.tar": tar, "a.tgz": tar, "a.zip": zipped}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path):
    return lambda files=FILES: MAKERS[request.param](tmp_path / request.param, files)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "into" / "here"


def found(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def nothing_but(archive: Path, folder: Path) -> bool:
    """Only the archive is anywhere around, and at most empty folders."""
    return [p for p in archive.parent.rglob("*") if not p.is_dir()] == [archive]


def test_all_files_are_there(make, folder):
    counts = []
    assert unpack(make(), folder, counts.append) == []
    assert found(folder) == FILES
    assert counts == [1, 2, 3]


def test_what_is_there_is_not_unpacked_again(make, folder):
    archive = make()
    unpack(archive, folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    unpack(archive, folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


def test_files_of_two_archives_meet_in_one_folder(tmp_path, folder):
    unpack(tar(tmp_path / "a.tar"), folder)
    unpack(tar(tmp_path / "b.tar", {"kit/JPEGImages/b.jpg": b"b"}), folder)
    assert found(folder) == FILES | {"kit/JPEGImages/b.jpg": b"b"}


@pytest.mark.parametrize("killed_at", range(4))
def test_a_killed_run_goes_on(make, folder, monkeypatch, killed_at):
    archive = make()

    def kill(number: int) -> None:
        if number > killed_at:
            raise KeyboardInterrupt

    if killed_at < 3:
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, folder, kill)
    else:  # while files are moved to their place
        moved, real = [], os.replace

        def replace(source: Path, target: Path) -> None:
            if not str(source).endswith(".partial"):
                moved.append(source)
                if len(moved) == 2:
                    raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(archives.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, folder)
        monkeypatch.undo()
    assert half(archive, folder).is_dir()
    unpack(archive, folder)
    assert found(folder) == FILES
    assert not half(archive, folder).exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "kit/../../evil",
        "/tmp/evil-of-a-test",
        "..\\evil",
        "C:evil",
        "kit/" + "x" * 250,
        "x" * 300 + "/a.txt",
        "x" * 150 + "/" + "/".join(["y" * 150] * 8),
        "kit/a.partial",
        ".a.tar.partial/a",
    ],
)
def test_a_name_that_leads_elsewhere_condemns_the_archive(make, folder, name):
    archive = make(FILES | {name: b"evil"})
    with pytest.raises(Refusal, match="no name of a file below") as refused:
        unpack(archive, folder)
    assert "\n" not in str(refused.value)
    assert nothing_but(archive, folder)
    assert not Path("/tmp/evil-of-a-test").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_of_a_tar_are_left_out(tmp_path, folder, kind):
    info = tarfile.TarInfo("kit/JPEGImages")
    info.type, info.linkname = kind, "/etc"
    outside = tmp_path / "outside"
    outside.mkdir()
    up = tarfile.TarInfo("kit/up")
    up.type, up.linkname = kind, str(outside)
    archive = tar(tmp_path / "a.tar", FILES | {"kit/up/b": b"b"}, info, up)
    assert unpack(archive, folder) == ["kit/JPEGImages", "kit/up"]
    assert found(folder) == FILES | {"kit/up/b": b"b"}
    assert not list(outside.iterdir())
    assert not any(p.is_symlink() for p in folder.rglob("*"))


def test_a_link_of_a_zip_is_left_out(tmp_path, folder):
    archive = zipped(tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        info = zipfile.ZipInfo("kit/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    assert unpack(archive, folder) == ["kit/link"]
    assert found(folder) == FILES


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.7])
def test_a_cut_archive_is_refused_and_leaves_nothing(make, folder, share):
    archive = make({f"kit/{i}": os.urandom(600) for i in range(20)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Refusal, match=r"broken .*delete it and run again") as refused:
        unpack(archive, folder)
    assert "\n" not in str(refused.value)
    assert nothing_but(archive, folder)


def test_a_tar_cut_between_members_is_refused(tmp_path, folder):
    archive = tar(tmp_path / "a.tar", {"a": b"a" * 512, "b": b"b" * 512})
    archive.write_bytes(archive.read_bytes()[: 512 * 3])  # folder, a, its content
    with pytest.raises(Refusal, match="ends before its end mark"):
        unpack(archive, folder)


def test_a_spoilt_byte_of_a_zip_or_tgz_is_refused(tmp_path, folder):
    files = {"kit/a": os.urandom(5000)}
    for archive in (zipped(tmp_path / "a.zip", files), tar(tmp_path / "a.tgz", files)):
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 0xFF
        archive.write_bytes(content)
        with pytest.raises(Refusal):
            unpack(archive, folder)
        assert not found(folder)


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", b"\0" * 2000])
def test_what_is_no_archive_is_refused(tmp_path, folder, content):
    archive = tmp_path / "a.tar"
    archive.write_bytes(content)
    if content.startswith(b"\0"):
        assert unpack(archive, folder) == []  # a tar of nothing
        return
    with pytest.raises(Refusal, match="broken"):
        unpack(archive, folder)


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_a_bomb_is_refused(tmp_path, folder, name):
    archive = MAKERS[name](tmp_path / name, {"kit/zeros": b"\0" * 5_000_000})
    with pytest.raises(Refusal, match="more than 50 times its size"):
        unpack(archive, folder)
    assert nothing_but(archive, folder)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_members_without_end_are_a_bomb_too(tmp_path, folder, kind):
    infos = [tarfile.TarInfo(f"kit/{number}") for number in range(10_000)]
    for info in infos:
        info.type = kind
    archive = tar(tmp_path / "a.tgz", FILES, *infos)
    with pytest.raises(Refusal, match="more than 50 times its size"):
        unpack(archive, folder)
    assert nothing_but(archive, folder)


def test_a_header_of_zeros_without_end_is_not_read(tmp_path, folder):
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 3 * archives.LARGEST
    archive = tmp_path / "a.tgz"
    with gzip.open(archive, "wb", 1) as raw:
        raw.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size))
    tracemalloc.start()
    with pytest.raises(Refusal, match="a header claims 50331648 bytes"):
        unpack(archive, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < archives.LARGEST
    assert nothing_but(archive, folder)


def test_a_member_below_a_file_is_refused(make, folder):
    archive = make({"kit/a": b"a", "kit/a/b": b"b"})
    with pytest.raises(Refusal, match="broken"):
        unpack(archive, folder)


def test_numbers_that_are_none_are_refused(tmp_path, folder):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("kit/a")
        info.size, info.pax_headers = 1, {"GNU.sparse.map": "a,b", "GNU.sparse.size": "1"}
        file.addfile(info, io.BytesIO(b"a"))
    with pytest.raises(Refusal, match=r"broken .*invalid literal"):
        unpack(archive, folder)
    assert nothing_but(archive, folder)


def test_a_name_that_is_no_text_is_refused(tmp_path, folder):
    archive = zipped(tmp_path / "a.zip", {"kit/\u00e9": b"a"})
    content = archive.read_bytes()
    archive.write_bytes(content.replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(Refusal, match="broken"):
        unpack(archive, folder)
    assert nothing_but(archive, folder)


@pytest.mark.parametrize("there", ["kit/sets/train.txt/", "kit/sets"])
def test_what_is_in_the_way_is_named_and_stays(make, folder, there):
    """A folder where the archive has a file, and a file where it has a folder."""
    path = folder / there
    (path if there.endswith("/") else path.parent).mkdir(parents=True)
    if not there.endswith("/"):
        path.write_bytes(b"mine")
    archive = make()
    with pytest.raises(Refusal, match=r"train.txt: .* in its way; move it away and run again"):
        unpack(archive, folder)
    assert path.exists()
    path.rmdir() if path.is_dir() else path.unlink()
    assert unpack(archive, folder) == []
    assert found(folder) == FILES
