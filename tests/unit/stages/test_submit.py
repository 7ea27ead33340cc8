"""The archive for the test server: the same bytes for the same masks, and what it must not hold."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from fbr.datasets.prepared import Entry, Prepared, write_index
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.stages.submit import check, pack

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"
ENTRIES = [Entry("b", 5, 3, ("test",), ()), Entry("a", 4, 6, ("test",), ())]


@pytest.fixture
def data(tmp_path):
    write_index(tmp_path / "data", ENTRIES, ["background", "cat", "dog"])
    return Prepared(tmp_path / "data")


@pytest.fixture
def folder(tmp_path):
    for entry in ENTRIES:
        mask = np.zeros((entry.height, entry.width), np.uint8)
        mask[1:, 1:] = 2
        pictures.write_mask(tmp_path / "pred" / f"{entry.id}.png", mask)
    return tmp_path / "pred"


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "submission.tar.gz"


def test_masks_lie_where_the_server_wants_them(archive, folder, data):
    pack(archive, folder, ENTRIES, INSIDE)
    check(archive, ENTRIES, data, INSIDE)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"{INSIDE}/a.png", f"{INSIDE}/b.png"]
        for member in tar:
            content = tar.extractfile(member).read()
            assert content == (folder / member.name.rpartition("/")[2]).read_bytes()


def test_equal_masks_are_equal_bytes_at_any_time_and_under_any_name(
    archive, folder, monkeypatch, tmp_path
):
    pack(archive, folder, ENTRIES, INSIDE)
    monkeypatch.setattr("time.time", lambda: 2e9)
    other = tmp_path / "other.partial"
    pack(other, folder, ENTRIES[::-1], INSIDE)
    assert archive.read_bytes() == other.read_bytes()


def png(mask: np.ndarray, mode: str = "P", palette: bytes = pictures.PALETTE) -> bytes:
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette(palette)
    content = io.BytesIO()
    (picture if mode == "P" else picture.convert(mode)).save(content, "PNG")
    return content.getvalue()


FINE = {"a": png(np.zeros((4, 6))), "b": png(np.ones((5, 3)))}


def packed(archive, members: dict[str, bytes], *links: str):
    with tarfile.open(archive, "w:gz") as tar:
        for id, content in members.items():
            member = tarfile.TarInfo(f"{INSIDE}/{id}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for id in links:
            member = tarfile.TarInfo(f"{INSIDE}/{id}.png")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return archive


def test_what_is_as_it_should_be_passes(archive, data):
    check(packed(archive, FINE), ENTRIES, data, INSIDE)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a": FINE["a"]}, f"1 masks missing, the first is {INSIDE}/b.png"),
        ({}, f"2 masks missing, the first is {INSIDE}/a.png"),
        (FINE | {"c": FINE["a"]}, f"found {INSIDE}/c.png, expected {INSIDE}/<id>.png only"),
        (FINE | {"../a": FINE["a"]}, "found .*/../a.png, expected"),
        (FINE | {"b": FINE["a"]}, r"b.png is \(6, 4\) P .*; expected \(3, 5\)"),
        (FINE | {"a": png(np.zeros((4, 6)), "RGB")}, r"a.png is \(6, 4\) RGB"),
        (FINE | {"a": png(np.zeros((4, 6)), "L")}, r"a.png is \(6, 4\) L"),
        (FINE | {"a": png(np.zeros((4, 6)), palette=bytes(range(256)) * 3)}, "VOC's palette"),
        (FINE | {"a": png(np.full((4, 6), 3))}, "with ids up to 3; .* ids up to 2"),
        (FINE | {"a": png(np.full((4, 6), 255))}, "with ids up to 255; .* ids up to 2"),
        (FINE | {"a": FINE["a"][:40]}, "a.png cannot be read"),
        (FINE | {"a": b"hello"}, "a.png cannot be read"),
    ],
)
def test_anything_else_is_refused(archive, data, members, said):
    with pytest.raises(Refusal, match=f"^submission: .*{said}") as refused:
        check(packed(archive, members), ENTRIES, data, INSIDE)
    assert "\n" not in str(refused.value)


def test_a_link_is_refused(archive, data):
    with pytest.raises(Refusal, match=f"found {INSIDE}/b.png, expected"):
        check(packed(archive, {"a": FINE["a"]}, "b"), ENTRIES, data, INSIDE)


def test_a_mask_given_twice_is_refused(archive, data):
    packed(archive, FINE)
    with tarfile.open(archive) as tar:
        contents = [(m, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(archive, "w:gz") as tar:
        for member, content in [*contents, contents[0]]:
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(Refusal, match=f"found {INSIDE}/a.png"):
        check(archive, ENTRIES, data, INSIDE)
