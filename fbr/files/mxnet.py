"""Arrays of an MXNet `.params` file in plain NumPy: ResNet-38's weights come in no other form.

The file is a list of arrays, then a list of their names, little-endian throughout.
"""

import math
import struct
from pathlib import Path

import numpy as np

from fbr.errors import Refusal

LIST = 0x112
# How an array begins. Older ones, ResNet-38's among them, begin with the number of their axes.
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = ["<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8"]
MOST_AXES = 32


def read(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name, without MXNet's marks "arg:" and "aux:"; what is no such file is refused."""
    if not path.is_file():
        raise Refusal(f"{path}: missing, expected an MXNet .params file")
    reader = _Reader(path.read_bytes())
    try:
        return reader.all()
    except _BrokenError as broken:
        raise Refusal(f"{path}: {broken}; fetch the MXNet .params file again") from None


class _BrokenError(Exception):
    pass


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def all(self) -> dict[str, np.ndarray]:
        if self.numbers("2Q")[0] != LIST:
            raise _BrokenError("begins like no list of MXNet arrays")
        arrays = [self.array(i) for i in range(self.number("Q"))]
        names = [self.name(i) for i in range(self.number("Q"))]
        if len(names) != len(arrays):
            raise _BrokenError(f"found {len(arrays)} arrays and {len(names)} names")
        if len(set(names)) < len(names):
            raise _BrokenError("two arrays bear one name")
        if self.at < len(self.content):
            raise _BrokenError(f"goes on for {len(self.content) - self.at} bytes after its end")
        return dict(zip(names, arrays, strict=True))

    def array(self, index: int) -> np.ndarray:
        magic = self.number("I")
        if magic in (V2, V3) and self.number("i") != 0:
            raise _BrokenError(f"array {index} is sparse, expected dense ones")
        axes = self.number("i") if magic in (V1, V2, V3) else magic
        if not (magic == V3 or axes) or not 0 <= axes <= MOST_AXES:
            raise _BrokenError(f"array {index} has no shape")
        shape = self.numbers(f"{axes}{'q' if magic in (V1, V2, V3) else 'I'}")
        if any(side < 0 for side in shape):
            raise _BrokenError(f"array {index} has the shape {shape}")
        _, _, kind = self.numbers("3i")  # device, its number, type
        if not 0 <= kind < len(TYPES):
            raise _BrokenError(f"array {index} is of type {kind}, expected 0…{len(TYPES) - 1}")
        type = np.dtype(TYPES[kind])
        return np.frombuffer(self.bytes(math.prod(shape) * type.itemsize), type).reshape(shape)

    def name(self, index: int) -> str:
        try:
            name = bytes(self.bytes(self.number("Q"))).decode()
        except UnicodeDecodeError:
            raise _BrokenError(f"name {index} is no text") from None
        return name.removeprefix("arg:").removeprefix("aux:")

    def number(self, form: str) -> int:
        return self.numbers(form)[0]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))

    def bytes(self, size: int) -> memoryview:
        if size > len(self.content) - self.at:
            raise _BrokenError(f"ends after {len(self.content)} bytes, within what it promises")
        self.at += size
        return memoryview(self.content)[self.at - size : self.at]
