"""MXNet's lists of arrays: every version of the format, and files that are none."""

import struct

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.files import mxnet

OLD = None  # before there were versions: an array begins with the number of its axes
VERSIONS = [OLD, mxnet.V1, mxnet.V2, mxnet.V3]


def array_bytes(array: np.ndarray, version: int | None) -> bytes:
    kind = mxnet.TYPES.index(array.dtype.str if array.itemsize > 1 else array.dtype.str[1:])
    axes = array.ndim
    if version is OLD:
        head = struct.pack(f"<I{axes}I", axes, *array.shape)
    else:
        storage = struct.pack("<i", 0) if version in (mxnet.V2, mxnet.V3) else b""
        shape = struct.pack(f"<i{axes}q", axes, *array.shape)
        head = struct.pack("<I", version) + storage + shape
    return head + struct.pack("<3i", 1, 0, kind) + array.tobytes()


def list_bytes(arrays: dict[str, np.ndarray], version: int | None = mxnet.V2) -> bytes:
    """What `mxnet.nd.save` writes."""
    content = struct.pack("<3Q", mxnet.LIST, 0, len(arrays))
    content += b"".join(array_bytes(array, version) for array in arrays.values())
    content += struct.pack("<Q", len(arrays))
    for name in arrays:
        content += struct.pack("<Q", len(name.encode())) + name.encode()
    return content


def some() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "arg:conv1a_weight": rng.normal(size=(4, 3, 3, 3)).astype("<f4"),
        "aux:bn7_moving_var": rng.random(5).astype("<f2"),
        "counts": np.arange(6, dtype="<i8").reshape(2, 3),
        "bytes": np.arange(7, dtype="u1"),
        "none": np.zeros((0, 3), "<f8"),
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "some.params"


@pytest.mark.parametrize("version", VERSIONS)
def test_arrays_come_back_under_their_plain_names(file, version):
    file.write_bytes(list_bytes(some(), version))
    found = mxnet.read(file)
    assert list(found) == ["conv1a_weight", "bn7_moving_var", "counts", "bytes", "none"]
    for array, expected in zip(found.values(), some().values(), strict=True):
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert np.array_equal(array, expected)


def test_an_empty_list_is_a_list(file):
    file.write_bytes(list_bytes({}))
    assert mxnet.read(file) == {}


def test_a_lone_number_needs_the_third_version(file):
    number = {"a": np.array(2.5, "<f4")}
    file.write_bytes(list_bytes(number, mxnet.V3))
    assert mxnet.read(file)["a"] == 2.5
    for version in (OLD, mxnet.V1, mxnet.V2):
        file.write_bytes(list_bytes(number, version))
        with pytest.raises(Refusal, match="array 0 has no shape"):
            mxnet.read(file)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_truncated_file_is_refused_in_one_line(file, version):
    content = list_bytes(some(), version)
    for length in [*range(0, 32, 3), *range(32, len(content), 29), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(Refusal, match=rf"ends after {length} bytes") as refused:
            mxnet.read(file)
        assert "\n" not in str(refused.value)


def changed(at: int, form: str, value: int) -> bytes:
    content = bytearray(list_bytes({"a": np.ones((2, 3), "<f4"), "b": np.ones(1, "<f4")}))
    struct.pack_into(f"<{form}", content, at, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04" + bytes(60), "begins like no list of MXNet arrays"),
        (changed(16, "Q", 2**60), "array 2 has no shape|ends after"),
        (changed(16, "Q", 1), "goes on for|names|ends after"),
        (changed(24, "I", 0xDEADBEEF), "array 0 has no shape"),
        (changed(28, "i", 1), "array 0 is sparse"),
        (changed(32, "i", 0), "array 0 has no shape"),
        (changed(32, "i", -3), "array 0 has no shape"),
        (changed(36, "q", -2), r"array 0 has the shape \(-2, 3\)"),
        (changed(36, "q", 2**62), "ends after"),
        (changed(60, "i", 99), "array 0 is of type 99"),
        (list_bytes(some()) + b"x", "goes on for 1 bytes after its end"),
        (list_bytes({"arg:a": np.ones(1, "<f4"), "aux:a": np.ones(1, "<f4")}), "bear one name"),
        (list_bytes({"a": np.ones(1, "<f4")})[:-9] + struct.pack("<Q", 1) + b"\xff", "is no text"),
        (struct.pack("<3Q", mxnet.LIST, 0, 0) + struct.pack("<2Q", 1, 0), "0 arrays and 1 names"),
    ],
)
def test_what_is_no_such_file_is_refused(file, content, said):
    file.write_bytes(content)
    with pytest.raises(Refusal, match=said) as refused:
        mxnet.read(file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused(file):
    with pytest.raises(Refusal, match="missing, expected an MXNet"):
        mxnet.read(file)
