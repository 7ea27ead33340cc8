"""The archive for the test server: the same bytes for the same masks, and what it must not hold."""

import gzip
import io
import tarfile
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from fbr.errors import Refusal
from fbr.files import pictures, submission
from fbr.files.submission import Wanted, pack, problems

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"
WANTED = Wanted(INSIDE, {"b": (5, 3), "a": (4, 6)}, foreground=2)


@pytest.fixture
def folder(tmp_path):
    for id, size in WANTED.sizes.items():
        mask = np.zeros(size, np.uint8)
        mask[1:, 1:] = 2
        pictures.write_mask(tmp_path / "pred" / f"{id}.png", mask)
    return tmp_path / "pred"


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "submission.tar.gz"


def found(archive) -> list[str]:
    lines = list(problems(archive, WANTED))
    assert all(line.isprintable() for line in lines)
    return lines


def test_masks_lie_where_the_server_wants_them(archive, folder):
    pack(archive, folder, WANTED.sizes, INSIDE)
    assert found(archive) == []
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"{INSIDE}/a.png", f"{INSIDE}/b.png"]
        for member in tar:
            content = tar.extractfile(member).read()
            assert content == (folder / member.name.rpartition("/")[2]).read_bytes()


def test_equal_masks_are_equal_bytes_at_any_time_and_under_any_name(
    archive, folder, monkeypatch, tmp_path
):
    pack(archive, folder, ["a", "b"], INSIDE)
    monkeypatch.setattr("time.time", lambda: 2e9)
    other = tmp_path / "other.partial"
    pack(other, folder, ["b", "a"], INSIDE)
    assert archive.read_bytes() == other.read_bytes()


def png(mask: np.ndarray, mode: str = "P", palette: bytes = pictures.PALETTE) -> bytes:
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette(palette)
    content = io.BytesIO()
    (picture if mode == "P" else picture.convert(mode)).save(content, "PNG")
    return content.getvalue()


def with_palette(content: bytes, palette: bytes) -> bytes:
    """A PNG with another palette; Pillow would write other ids to fit a short one."""
    at = content.index(b"PLTE")
    behind = at + 4 + int.from_bytes(content[at - 4 : at]) + 4
    chunk = b"PLTE" + palette
    chunk = len(palette).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    return content[: at - 4] + chunk + content[behind:]


FINE = {"a": png(np.zeros((4, 6))), "b": png(np.ones((5, 3)))}


def file(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def other(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def packed(archive, *more: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", **members: bytes):
    files = [file(f"{INSIDE}/{id}.png", content) for id, content in members.items()]
    with tarfile.open(archive, mode) as tar:
        for member, content in [*files, *more]:
            tar.addfile(member, io.BytesIO(content))
    return archive


def test_as_tar_packs_it_by_hand_it_is_fine_too(archive):
    parents = ["./results", "./results/VOC2012", "./results/VOC2012/Segmentation", f"./{INSIDE}"]
    folders = [other(name, tarfile.DIRTYPE) for name in [".", *parents]]
    members = [file(f"./{INSIDE}/{id}.png", content) for id, content in FINE.items()]
    assert found(packed(archive, *folders, *members, mode="w")) == []


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a": FINE["a"]}, f"1 masks missing, the first is {INSIDE}/b.png"),
        ({}, f"2 masks missing, the first is {INSIDE}/a.png"),
        (FINE | {"c": FINE["a"]}, f"found {INSIDE}/c.png, expected {INSIDE}/<id>.png"),
        (FINE | {"../a": FINE["a"]}, f"found {INSIDE}/../a.png, expected {INSIDE}/<id>.png"),
        (FINE | {"b": FINE["a"]}, f"{INSIDE}/b.png is 6×4, expected 3×5"),
        (
            FINE | {"a": png(np.zeros((4, 6)), "RGB")},
            f"{INSIDE}/a.png is of mode RGB, expected P, a palette picture",
        ),
        (
            FINE | {"a": png(np.zeros((4, 6)), "L")},
            f"{INSIDE}/a.png is of mode L, expected P, a palette picture",
        ),
        (
            FINE | {"a": png(np.zeros((4, 6)), palette=bytes(range(256)) * 3)},
            f"{INSIDE}/a.png has another palette than VOC's",
        ),
        (
            FINE | {"a": with_palette(png(np.full((4, 6), 2)), pictures.PALETTE[:6])},
            f"{INSIDE}/a.png holds ids up to 2 and a palette of 2 colours",
        ),
        (
            FINE | {"a": png(np.full((4, 6), 3))},
            f"{INSIDE}/a.png holds ids up to 3, expected 0 to 2",
        ),
        (
            FINE | {"a": png(np.full((4, 6), 255))},
            f"{INSIDE}/a.png holds ids up to 255, expected 0 to 2",
        ),
        (FINE | {"a": FINE["a"][:40]}, f"{INSIDE}/a.png cannot be read as PNG ("),
        (FINE | {"a": b"hello"}, f"{INSIDE}/a.png cannot be read as PNG ("),
        (FINE | {"\x1b[2J\n": b""}, f"found '{INSIDE}/\\x1b[2J\\n.png', expected"),
    ],
)
def test_anything_else_is_one_line(archive, members, said):
    (line,) = found(packed(archive, **members))
    assert line.startswith(said)


def test_every_problem_has_its_line(archive):
    members = {"a": b"hello", "c": b"", "d": b""}
    assert [line.split(" ")[0] for line in found(packed(archive, **members))] == [
        f"{INSIDE}/a.png",
        "found",
        "found",
        "1",
    ]


def test_another_format_under_the_name_of_a_png_is_refused(archive):
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(jpeg, "JPEG")
    (line,) = found(packed(archive, **(FINE | {"a": jpeg.getvalue()})))
    assert "a.png cannot be read as PNG" in line


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (other(f"{INSIDE}/b.png", tarfile.SYMTYPE, "/etc/passwd"), "b.png, a link to /etc/passwd"),
        (other(f"{INSIDE}/b.png", tarfile.LNKTYPE, f"{INSIDE}/a.png"), "b.png, a link to results"),
        (other(f"{INSIDE}/b.png", tarfile.CHRTYPE), "b.png of another kind than a file"),
        (other(f"{INSIDE}/b.png", tarfile.FIFOTYPE), "b.png of another kind than a file"),
        (other(f"{INSIDE}/b.png", tarfile.DIRTYPE), "b.png of another kind than a file"),
        (other("results/VOC2007", tarfile.DIRTYPE), "results/VOC2007 of another kind than a file"),
        (file("/etc/passwd", b""), "found /etc/passwd, expected"),
        (file(f"../{INSIDE}/b.png", FINE["b"]), f"found ../{INSIDE}/b.png, expected"),
    ],
)
def test_links_devices_and_other_places_are_told_and_not_followed(archive, member, said):
    first, missing = found(packed(archive, member, a=FINE["a"]))
    assert said in first
    assert missing.startswith("1 masks missing")


def test_a_mask_given_twice_is_told(archive):
    twice = file(f"{INSIDE}/a.png", FINE["a"])
    assert found(packed(archive, twice, **FINE)) == [f"found {INSIDE}/a.png twice"]


def test_a_picture_that_claims_to_be_huge_is_not_decoded(archive):
    huge = bytearray(FINE["a"])
    huge[16:24] = (60000).to_bytes(4) * 2  # IHDR's width and height; its checksum, too
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4)
    (line,) = found(packed(archive, **(FINE | {"a": bytes(huge)})))
    assert "60000×60000" in line or "cannot be read as PNG" in line


def spending(archive) -> list[str]:
    """What is said, in little memory."""
    tracemalloc.start()
    lines = found(archive)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * submission.LARGEST
    return lines


def test_a_member_of_zeros_without_end_is_not_unpacked(archive):
    (line,) = spending(packed(archive, file(f"{INSIDE}/a.png", bytes(submission.LARGEST + 1))))
    assert line.endswith("claims 16777217 bytes; nothing behind it was read")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_zeros_without_end_is_not_unpacked(archive, kind):
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 3 * submission.LARGEST
    with gzip.open(archive, "wb", 1) as raw:
        raw.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size))
    (line,) = spending(archive)
    assert line.startswith("cannot be read as a tar archive, or no further (")


def test_members_without_end_are_not_counted(archive, monkeypatch):
    monkeypatch.setattr(submission, "SPARE", 3)
    lines = found(packed(archive, **{f"x{n}": b"" for n in range(9)}))
    assert len(lines) == 6
    assert lines[-1] == "more than 5 members; the rest was not looked at"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"\x1f\x8bhello", bytes(100)])
def test_what_is_no_archive_is_told(archive, content):
    archive.write_bytes(content)
    (line,) = found(archive)
    assert line.startswith(("cannot be read as a tar archive", "2 masks missing"))


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_an_archive_that_is_cut_off_is_told(archive, part):
    content = packed(archive, **FINE).read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    assert "cannot be read as a tar archive, or no further" in found(archive)[-1]


@pytest.mark.parametrize("bytes_gone", [1, 4, 8, 12, 30])
def test_an_archive_without_its_last_bytes_is_told(archive, bytes_gone):
    content = packed(archive, **FINE).read_bytes()
    archive.write_bytes(content[:-bytes_gone])
    assert "cannot be read as a tar archive, or no further" in found(archive)[-1]


def test_an_archive_with_a_wrong_checksum_is_told(archive):
    content = bytearray(packed(archive, **FINE).read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    assert "cannot be read as a tar archive, or no further" in found(archive)[-1]


def test_what_goes_on_without_end_behind_the_end_mark_is_not_read(archive):
    content = packed(archive, mode="w", **FINE).read_bytes()
    with gzip.open(archive, "wb", 1) as raw:
        raw.write(content)
        for _ in range(70):
            raw.write(bytes(1 << 20))
    (line,) = spending(archive)
    assert "it goes on behind its end mark" in line


@pytest.mark.parametrize("bytes_gone", [1, 4, 12, 16, 20])
def test_a_mask_without_its_last_bytes_is_told(archive, bytes_gone):
    (line,) = found(packed(archive, **FINE | {"a": FINE["a"][:-bytes_gone]}))
    assert line.startswith(f"{INSIDE}/a.png cannot be read as PNG (")


def test_a_mask_with_a_wrong_checksum_is_told(archive):
    spoilt = bytearray(FINE["a"])
    spoilt[-13] ^= 1  # the last byte of the pixels' checksum, before the twelve of IEND
    (line,) = found(packed(archive, **FINE | {"a": bytes(spoilt)}))
    assert line.startswith(f"{INSIDE}/a.png cannot be read as PNG (")


def chunked(content: bytes, rows: int, interlaced: bool = False) -> bytes:
    """A PNG of the size of this one, whose pixels are so many rows of zeros, checksums and all."""
    width = int.from_bytes(content[16:20])
    header = content[16:28] + bytes([interlaced])
    parts = [b"IHDR" + header, b"PLTE" + pictures.PALETTE]
    depth_8 = bytes(rows * (1 + width)) if not interlaced else bytes(rows)
    parts += [b"IDAT" + zlib.compress(depth_8), b"IEND"]
    chunks = [len(p[4:]).to_bytes(4) + p + zlib.crc32(p).to_bytes(4) for p in parts]
    return content[:8] + b"".join(chunks)


def test_a_mask_that_lacks_rows_is_told(archive):
    """Pillow reads it as a picture whose lower half is background."""
    whole = png(np.arange(24).reshape(4, 6) % 3)
    assert whole[24] == 8
    assert found(packed(archive, **FINE | {"a": chunked(whole, 4)})) == []
    (line,) = found(packed(archive, **FINE | {"a": chunked(whole, 3)}))
    assert line == f"{INSIDE}/a.png cannot be read as PNG (it lacks rows)"


def test_an_interlaced_mask_is_fine_if_it_is_whole(archive):
    """Bytes of its passes by hand: a row is a filter byte and its pixels."""
    whole = png(np.arange(24).reshape(4, 6) % 3)
    # Of 6×4 pixels, columns × rows: 1×1, 1×1, none below row 4, 2×1, 3×1, 3×2 and 6×2.
    bytes_in_all = 2 + 2 + 2 + 4 + 2 * 4 + 2 * 7
    assert found(packed(archive, **FINE | {"a": chunked(whole, bytes_in_all, True)})) == []
    (line,) = found(packed(archive, **FINE | {"a": chunked(whole, bytes_in_all - 1, True)}))
    assert line.startswith(f"{INSIDE}/a.png cannot be read as PNG (")


def test_colours_that_no_pixel_has_may_be_any(archive):
    palette = pictures.PALETTE[:9] + bytes(759)
    assert found(packed(archive, **FINE | {"a": with_palette(FINE["a"], palette)})) == []


def test_a_long_name_is_packed_too(archive, tmp_path):
    name = "n" * 150
    pictures.write_mask(tmp_path / "pred" / f"{name}.png", np.zeros((4, 6), np.uint8))
    pack(archive, tmp_path / "pred", [name], INSIDE)
    assert list(problems(archive, Wanted(INSIDE, {name: (4, 6)}, foreground=2))) == []


def test_a_missing_archive_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"no\.tar\.gz: not found"):
        list(problems(tmp_path / "no.tar.gz", WANTED))
