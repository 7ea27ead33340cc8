"""Maps on disk, and their resizing against a literal twin and torch."""

import io

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fbr.errors import Refusal
from fbr.files import maps
from tests.reference import resize as reference


def example(k=2, h=6, w=7, size=(24, 28)) -> maps.Maps:
    rng = np.random.default_rng(0)
    cam = rng.random((k, h, w)).astype(np.float16)
    return maps.Maps(np.arange(1, k + 1, dtype=np.uint8), cam, size)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "2007_000032.npz"


@pytest.mark.parametrize("k", [0, 1, 3])
def test_what_is_written_is_read(file, k):
    written = example(k)
    maps.write(file, written)
    read = maps.read(file)
    assert np.array_equal(read.keys, written.keys)
    assert np.array_equal(read.cam, written.cam)
    assert read.size == written.size
    assert (read.keys.dtype, read.cam.dtype) == (np.uint8, np.float16)
    assert read.full().shape == (k, *written.size)


def test_float32_maps_are_stored_in_half(file):
    cam = np.full((1, 2, 2), 1 / 3, np.float32)
    maps.write(file, maps.Maps(np.array([3]), cam, (8, 8)))
    assert maps.read(file).cam[0, 0, 0] == np.float16(1 / 3)


def test_equal_maps_are_equal_bytes_at_any_time(file, monkeypatch):
    maps.write(file, example())
    before = file.read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    maps.write(file, example())
    assert file.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_neither_written_nor_read(file, value):
    spoilt = example()
    spoilt.cam[1, 2, 3] = value
    with pytest.raises(Refusal, match="maps of id '2007_000032' hold NaN or infinity"):
        maps.write(file, spoilt)
    assert not file.exists()
    with open(file, "wb") as raw:
        np.savez(raw, keys=spoilt.keys, cam=spoilt.cam, size=np.array(spoilt.size))
    with pytest.raises(Refusal, match=r"2007_000032\.npz: holds NaN or infinity"):
        maps.read(file)


def test_maps_of_another_image_are_refused(file):
    maps.write(file, example(size=(24, 28)))
    assert maps.read(file, (24, 28)).size == (24, 28)
    with pytest.raises(Refusal, match="of 28×24 pixels, expected 24×28; run its stage again"):
        maps.read(file, (28, 24))


def test_a_missing_file_names_the_id(file):
    with pytest.raises(Refusal, match="missing, expected the maps of id '2007_000032'"):
        maps.read(file)


def broken(whole: bytes) -> dict[str, bytes]:
    middle = len(whole) // 2
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    pickled = io.BytesIO()
    np.savez(pickled, keys=np.array([{}], object), cam=np.zeros((1, 1, 1)), size=np.zeros(2))
    foreign = io.BytesIO()
    np.savez(foreign, keys=np.zeros(1))
    return {
        "empty": b"",
        "text": b"not an archive",
        "half": whole[:middle],
        "short": whole[:-1],
        "changed": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "encrypted": whole.replace(b"PK\x01\x02-\x03-\x00\x00", b"PK\x01\x02-\x03-\x00\x01", 1),
        "one array": array.getvalue(),
        "pickle": pickled.getvalue(),
        "other names": foreign.getvalue(),
    }


@pytest.mark.parametrize("kind", broken(b"12"))
def test_a_broken_file_names_the_id(file, kind):
    maps.write(file, example())
    whole = file.read_bytes()
    content = broken(whole)[kind]
    assert content != whole
    file.write_bytes(content)
    with pytest.raises(Refusal, match="cannot be read as maps of id '2007_000032'") as caught:
        maps.read(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "cam", "size"),
    [((2,), (3, 4, 5), (2,)), ((1,), (4, 5), (2,)), ((), (1, 4, 5), (2,)), ((1,), (1, 4, 5), (3,))],
)
def test_shapes_that_do_not_belong_together_are_refused(file, keys, cam, size):
    with file.open("wb") as raw:
        np.savez(raw, keys=np.zeros(keys), cam=np.zeros(cam), size=np.zeros(size))
    with pytest.raises(Refusal, match=r"expected \(k,\), float16 \(k, h, w\) and \(2,\)"):
        maps.read(file)


SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (5, 3)),
    ((5, 3), (1, 1)),
    ((2, 3), (7, 11)),
    ((7, 11), (2, 3)),
    ((6, 7), (6, 7)),
    ((1, 9), (4, 4)),
    ((13, 10), (13, 40)),
]


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_is_the_twin(source, target):
    image = np.random.default_rng(1).random((2, *source)).astype(np.float32)
    expected = np.stack([reference.bilinear(one, *target) for one in image])
    assert np.abs(maps.resize(image, target) - expected).max() < 1e-6


@pytest.mark.parametrize(("source", "target"), [*SIZES, ((94, 125), (375, 500))])
def test_resize_is_torchs(source, target):
    image = np.random.default_rng(2).random((3, *source)).astype(np.float32)
    # In float32 torch itself is off by 1e-5 at this size.
    exact = torch.from_numpy(image)[None].double()
    expected = F.interpolate(exact, target, mode="bilinear", align_corners=False)[0].numpy()
    resized = maps.resize(image, target)
    assert np.abs(resized - expected).max() < 1e-6
    assert resized.dtype == np.float32
    assert resized.flags.c_contiguous


def test_no_map_stays_none():
    assert maps.resize(np.zeros((0, 3, 4), np.float32), (6, 8)).shape == (0, 6, 8)
