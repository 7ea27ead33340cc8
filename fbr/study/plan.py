"""A study file, and what it asks for: rows of changed recipes, all over the same seeds."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fbr import params
from fbr.errors import Refusal, one_of
from fbr.params import CamBlock, Name, Params, Strict

Axes = dict[str, str]


class RowBlock(Strict):
    """A recipe: the table's base unless `cam` or `over` say otherwise, then changed by `set`."""

    label: str | None = None
    cam: Name | None = None  # another block under cam:
    over: Name | None = None  # an earlier row of the table
    set: dict[str, Any] = Field({})  # dotted keys of cam.<block>.<data>, as in cam_train.lr

    @model_validator(mode="after")
    def _one_start(self) -> "RowBlock":
        if self.cam and self.over:
            raise ValueError("expected one of 'cam' and 'over', a row starts in one place")
        return self


class Sweep(Strict):
    """One row a value of one key."""

    key: str
    values: Annotated[list[Any], Field(min_length=1)]


class TableBlock(Strict):
    data: Name
    seeds: Annotated[list[Name], Field(min_length=1)]
    base: Name
    baseline: str | int | float | None = None  # the row that others are compared with
    rows: dict[Name, RowBlock] = Field({})
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _has_rows(self) -> "TableBlock":
        if not self.rows and not self.sweep:
            raise ValueError("expected 'rows' or 'sweep'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, expected each once")
        return self


class StudyBlock(Strict):
    """The whole file."""

    page: str
    params: dict[str, Any] = Field({})  # laid over params.yaml
    tables: Annotated[dict[Name, TableBlock], Field(min_length=1)]


@dataclass(frozen=True)
class Row:
    """One line of a table, and the block under `cam:` that holds its recipe."""

    name: str
    label: str
    variant: str


@dataclass(frozen=True)
class Table:
    """Rows over seeds, and where the file has them a baseline, a key and the rows that sweep it."""

    name: str
    data: str
    seeds: tuple[str, ...]
    rows: tuple[Row, ...]
    baseline: Row | None
    swept: str | None
    sweep: tuple[Row, ...]

    def runs(self, row: Row) -> list[Axes]:
        """A row under every seed."""
        return [{"data": self.data, "seed": seed, "cam": row.variant} for seed in self.seeds]


@dataclass(frozen=True)
class Study:
    """What to run: the blocks of a params.yaml that holds every recipe, and the tables."""

    name: str
    page: Path
    blocks: dict[str, Any]
    tables: tuple[Table, ...]


def load(file: Path, numbers: Path) -> Study:
    """Read a study file, lay it over params.yaml, and refuse what cannot run."""
    if not file.is_file():
        raise Refusal(f"{file}: not found; name a study file, as in docs/studies/fbr.yaml")
    asked = params.check(params.read(file), StudyBlock, file.name)
    blocks = merged(params.read(numbers), asked.params)
    params.check(blocks, Params, f"{numbers.name} under {file.name}")
    tables = tuple(_table(name, t, blocks, file.name) for name, t in asked.tables.items())
    params.check(blocks, Params, f"{numbers.name} under {file.name}")
    return Study(file.stem, Path(asked.page), blocks, tables)


def merged(under: dict, over: dict) -> dict:
    """Lay one mapping over another, block by block; anything but a block is replaced."""
    found = copy.deepcopy(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else copy.deepcopy(value)
    return found


def _table(name: str, asked: TableBlock, blocks: dict, file: str) -> Table:
    where = f"{file}: tables.{name}"
    one_of(blocks["data"], asked.data, f"{where}.data")
    for seed in asked.seeds:
        one_of(blocks["seed"], seed, f"{where}.seeds")
    swept = asked.sweep.values if asked.sweep else []
    rows = [*asked.rows.items()]
    rows += [(str(value), RowBlock(set={asked.sweep.key: value})) for value in swept]
    made: dict[str, Row] = {}
    recipes: dict[str, tuple[str, dict]] = {}
    for row, change in rows:
        here = f"{where}.rows.{row}" if row in asked.rows else f"{where}.sweep: {row}"
        if row in made:
            raise Refusal(f"{here}: found '{row}' twice, expected rows and values to differ")
        start, block = _start(change, asked, blocks["cam"], recipes, here)
        recipes[row] = start, changed(block, change.set, here)
        variant = _variant(*recipes[row], asked.data, blocks["cam"], here)
        made[row] = Row(row, change.label or row, variant)
    if asked.baseline is not None:
        one_of(made, str(asked.baseline), f"{where}.baseline")
    return Table(
        name=name,
        data=asked.data,
        seeds=tuple(asked.seeds),
        rows=tuple(made.values()),
        baseline=made.get(str(asked.baseline)),
        swept=asked.sweep and asked.sweep.key,
        sweep=tuple(row for name, row in made.items() if name not in asked.rows),
    )


def _start(
    change: RowBlock, table: TableBlock, cam: dict, recipes: dict[str, tuple[str, dict]], where: str
) -> tuple[str, dict]:
    """The block that a row changes, and the name that it has in params.yaml or came from."""
    if change.over:
        one_of(recipes, change.over, f"{where}.over, of the rows before it")
        return recipes[change.over]
    start = change.cam or table.base
    one_of(cam, start, f"{where}.cam" if change.cam else f"{where}: base")
    one_of(cam[start], table.data, f"{where}: datasets of cam.{start}")
    return start, cam[start][table.data]


def changed(block: dict, keys: dict[str, Any], where: str) -> dict:
    """A copy of a block with these dotted keys set, known ones or not: the models tell later."""
    block = copy.deepcopy(block)
    for dotted, value in keys.items():
        *path, last = dotted.split(".")
        inside = block
        for key in path:
            if inside.get(key) is None:
                inside[key] = {}
            inside = inside[key]
            if not isinstance(inside, dict):
                raise Refusal(f"{where}: {dotted}: found {inside!r} under '{key}', expected keys")
        inside[last] = copy.deepcopy(value)
    return block


def _variant(start: str, block: dict, data: str, cam: dict, where: str) -> str:
    """The name of the block with this content; a new one is added under `cam:`.

    The name is made of where the row starts and of what it changes there, not of the content: an
    edit of the start is then an edit of known blocks, and runs only the stages that it concerns.
    """
    asked = params.check(block, CamBlock, where)
    for name in (start, *cam):
        if data in cam[name] and CamBlock.model_validate(cam[name][data]) == asked:
            return name
    before = _leaves(CamBlock.model_validate(cam[start][data]))
    after = _leaves(asked)
    change = {
        key: after.get(key)
        for key in sorted(before.keys() | after.keys())
        if (key in before, before.get(key)) != (key in after, after.get(key))
    }
    said = "_".join(f"{key.rpartition('.')[2]}_{value}" for key, value in change.items())
    slug = re.sub(r"\W+", "_", said, flags=re.ASCII)[:40].strip("_")
    digest = hashlib.sha256(json.dumps(change).encode()).hexdigest()
    name = f"{start}_{slug}_{digest[:6]}"
    cam.setdefault(name, {})[data] = block
    return name


def _leaves(block: CamBlock) -> dict[str, Any]:
    """Dotted key → value of what is written in a block, numbers in the type of their field."""

    def walk(node: object, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict) or not node:
            yield path, node
            return
        for key, value in node.items():
            yield from walk(value, f"{path}.{key}" if path else key)

    return dict(walk(block.model_dump(mode="json", exclude_unset=True), ""))
