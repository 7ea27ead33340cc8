"""COCO's annotation files, read in passing: of 600,000 objects only the places are kept in memory.

As Python objects, the polygons of train2014 alone take several GB.
"""

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from fbr.errors import Refusal

CHUNK = 1 << 20
LARGEST = 1 << 26  # characters of one item; a real one has far fewer, a broken one never ends
SPACE = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()
Span = tuple[int, int]  # bytes of the file, from and to


class Item(NamedTuple):
    """One item of a list below a key, or the whole value where it is no list."""

    key: str
    value: Any
    begin: int
    end: int


class _Reader:
    """Values of JSON, one after another, from a file that is never in memory as a whole.

    Read as Latin-1, in which a character is a byte, so that places are places in the file.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.before = file, "", 0, 0

    @property
    def place(self) -> int:
        return self.before + self.at

    def _more(self) -> bool:
        chunk = self.file.read(CHUNK)
        self.before += self.at
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def next(self) -> str:
        """The next character that is no space; it stays."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                raise ValueError("it ends too early")

    def skip(self, *characters: str) -> bool:
        """Step over one of these characters; whether it was there."""
        if self.next() not in characters:
            return False
        self.at += 1
        return True

    def value(self) -> Any:
        """The next value, whole."""
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text):
                    self.at = end
                    return value
                if not self._more():  # else a number may go on
                    self.at = len(self.text)
                    return value
            except json.JSONDecodeError:
                if len(self.text) - self.at > LARGEST or not self._more():
                    raise


def items(file: TextIO) -> Iterator[Item]:
    """Everything below the top-level keys, the items of lists one by one."""
    read = _Reader(file)
    if not read.skip("{"):
        raise ValueError("expected an object")
    while not read.skip("}"):
        key = read.value()
        if not read.skip(":"):
            raise ValueError(f"expected ':' after '{key}'")
        if not read.skip("["):
            yield Item(key, read.value(), 0, 0)
        else:
            while not read.skip("]"):
                read.next()
                begin = read.place
                value = read.value()
                yield Item(key, value, begin, read.place)
                if read.next() not in ",]":
                    raise ValueError(f"expected ',' in '{key}'")
                read.skip(",")
        if read.next() not in ",}":
            raise ValueError(f"expected ',' after '{key}'")
        read.skip(",")


class Image(NamedTuple):
    """What the file says of an image, and where its objects are in the file."""

    file_name: str
    height: int
    width: int
    spans: list[Span]


class Instances:
    """An `instances_*.json`: class names by category id, and the images by id."""

    def __init__(self, file: Path) -> None:
        self.file = file
        images: dict[int, tuple[str, int, int]] = {}
        categories: dict[int, str] = {}
        keys = set()
        of, begins, ends = array("q"), array("q"), array("q")
        try:
            with open(file, encoding="latin-1", newline="") as text:
                for key, value, begin, end in items(text):
                    keys.add(key)
                    if key == "annotations":
                        of.append(value["image_id"])
                        begins.append(begin)
                        ends.append(end)
                    elif key == "images":
                        said = (
                            Path(_utf8(value["file_name"])).name,
                            value["height"],
                            value["width"],
                        )
                        images[value["id"]] = said
                    elif key == "categories":
                        categories[value["id"]] = _utf8(value["name"])
            if lacking := {"images", "annotations", "categories"} - keys:
                raise ValueError(f"no '{min(lacking)}'")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Refusal(
                f"{file}: not COCO's instance annotations ({error!r}); fetch it again"
            ) from None
        self.categories = dict(sorted(categories.items()))
        self._images = images
        order = np.argsort(np.array(of), kind="stable")
        self._of = np.array(of)[order]
        self._spans = np.stack([np.array(begins), np.array(ends)], 1)[order]

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Image]:
        """The images by their id."""
        for id, said in sorted(self._images.items()):
            here = slice(*np.searchsorted(self._of, [id, id + 1]))
            yield Image(*said, [tuple(span) for span in self._spans[here].tolist()])


def _utf8(text: str) -> str:
    """Undo Latin-1; what was escaped in the file has been right all along."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def objects(file: Path, spans: list[Span]) -> list[dict]:
    """Read the objects at these places of the file."""
    with open(file, "rb") as content:
        found = []
        for begin, end in spans:
            content.seek(begin)
            found.append(json.loads(content.read(end - begin)))
        return found
