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
from fbr.params import CamBlock, MaskBlock, Name, Params, SegBlock, Strict

Axes = dict[str, str]
BLOCKS: dict[str, type[Strict]] = {"cam": CamBlock, "mask": MaskBlock, "seg": SegBlock}
SCORED = {"cam": "cam_eval", "mask": "mask_eval", "seg": "seg_eval"}
_KEY = {"cam": "base", "mask": "mask", "seg": "seg"}  # of a table
Recipes = dict[str, tuple[str, dict]]  # axis → where a block starts, and its content


class RowBlock(Strict):
    """Recipes: the table's unless the row names others or starts `over` a row; then `set`."""

    label: str | None = None
    cam: Name | None = None  # other blocks under cam:, mask: and seg:
    mask: Name | None = None
    seg: Name | None = None
    over: Name | None = None  # an earlier row of the table
    against: Name | None = None  # an earlier row, which it is compared with beside the baseline
    set: dict[str, Any] = Field({})  # dotted keys of <axis>.<block>.<data>, as in cam_train.lr

    @model_validator(mode="after")
    def _one_start(self) -> "RowBlock":
        for axis in BLOCKS:
            if self.over and getattr(self, axis):
                raise ValueError(f"expected one of '{axis}' and 'over', a row starts in one place")
        return self


class Sweep(Strict):
    """One row a value of one key."""

    key: str
    values: Annotated[list[Any], Field(min_length=1)]


class TableBlock(Strict):
    data: Name
    seeds: Annotated[list[Name], Field(min_length=1)]
    base: Name  # under cam:, whose maps are scored,
    mask: Name | None = None  # unless masks are,
    seg: Name | None = None  # or a network's predictions
    baseline: str | int | float | None = None  # the row that others are compared with
    rows: dict[Name, RowBlock] = Field({})
    sweep: Sweep | None = None

    @model_validator(mode="after")
    def _has_rows(self) -> "TableBlock":
        if not self.rows and not self.sweep:
            raise ValueError("expected 'rows' or 'sweep'")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}, expected each once")
        if self.seg and not self.mask:
            raise ValueError("found 'seg' without 'mask', expected the masks that it learns from")
        for name, row in self.rows.items():
            for axis in ("mask", "seg"):
                if getattr(row, axis) and not getattr(self, axis):
                    raise ValueError(
                        f"row '{name}' has '{axis}', expected one of the table, too: all rows of "
                        "a table are scored at one stage"
                    )
        return self

    @property
    def start(self) -> Axes:
        """The blocks that rows start from."""
        named = {"cam": self.base, "mask": self.mask, "seg": self.seg}
        return {axis: name for axis, name in named.items() if name is not None}


class StudyBlock(Strict):
    """The whole file."""

    page: str
    params: dict[str, Any] = Field({})  # laid over params.yaml
    tables: Annotated[dict[Name, TableBlock], Field(min_length=1)]


@dataclass(frozen=True)
class Row:
    """One line of a table, and the blocks that hold its recipes: axis → name."""

    name: str
    label: str
    axes: Axes
    against: str | None = None

    @property
    def variant(self) -> str:
        """The folder of its results, in that of a seed."""
        return "/".join(self.axes.values())


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

    @property
    def stage(self) -> str:
        """The one that scores its rows."""
        return scored(self.rows[0].axes)

    def runs(self, row: Row) -> list[Axes]:
        """A row under every seed."""
        return [{"data": self.data, "seed": seed, **row.axes} for seed in self.seeds]


@dataclass(frozen=True)
class Study:
    """What to run: the blocks of a params.yaml that holds every recipe, and the tables."""

    name: str
    page: Path
    blocks: dict[str, Any]
    tables: tuple[Table, ...]

    @property
    def runs(self) -> Path:
        """Where every single run is listed, beside the page."""
        return self.page.parent / f"{self.name}-runs" / "runs.csv"


def scored(axes: Axes) -> str:
    """The stage that scores what these axes lead to: maps, masks or predictions."""
    return SCORED[[axis for axis in BLOCKS if axis in axes][-1]]


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
    recipes: dict[str, Recipes] = {}
    for row, change in rows:
        here = f"{where}.rows.{row}" if row in asked.rows else f"{where}.sweep: {row}"
        if row in made:
            raise Refusal(f"{here}: found '{row}' twice, expected rows and values to differ")
        start = _start(change, asked, blocks, recipes, here)
        recipes[row] = {
            axis: (name, changed(block, _of(axis, change.set, start), here))
            for axis, (name, block) in start.items()
        }
        axes = {
            axis: _variant(axis, *recipe, asked.data, blocks[axis], here)
            for axis, recipe in recipes[row].items()
        }
        if change.against:
            one_of(made, change.against, f"{where}.rows.{row}.against, of the rows before it")
        made[row] = Row(row, change.label or row, axes, change.against)
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
    change: RowBlock, table: TableBlock, blocks: dict, recipes: dict[str, Recipes], where: str
) -> Recipes:
    """The blocks that a row changes, and the names that they have in params.yaml or came from."""
    if change.over:
        one_of(recipes, change.over, f"{where}.over, of the rows before it")
        return recipes[change.over]
    found = {}
    for axis, base in table.start.items():
        own = getattr(change, axis)
        name = own or base
        one_of(blocks[axis], name, f"{where}.{axis}" if own else f"{where}: {_KEY[axis]}")
        one_of(blocks[axis][name], table.data, f"{where}: datasets of {axis}.{name}")
        found[axis] = name, blocks[axis][name][table.data]
    return found


def _of(axis: str, keys: dict[str, Any], start: Recipes) -> dict[str, Any]:
    """Those of the dotted keys whose stage is one of this axis; strange ones are for the first."""

    def owner(key: str) -> str:
        stage = key.partition(".")[0]
        return next((a for a in start if stage in BLOCKS[a].model_fields), "cam")

    return {key: value for key, value in keys.items() if owner(key) == axis}


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


def _variant(axis: str, start: str, block: dict, data: str, there: dict, where: str) -> str:
    """The name of the block with this content; a new one is added `there`, under its axis.

    The name is made of where the row starts and of what it changes there, not of the content: an
    edit of the start is then an edit of known blocks, and runs only the stages that it concerns.
    """
    model = BLOCKS[axis]
    asked = params.check(block, model, where)
    for name in (start, *there):
        if data in there[name] and model.model_validate(there[name][data]) == asked:
            return name
    before = _leaves(model.model_validate(there[start][data]))
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
    there.setdefault(name, {})[data] = block
    return name


def _leaves(block: Strict) -> dict[str, Any]:
    """Dotted key → value of what is written in a block, numbers in the type of their field."""

    def walk(node: object, path: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict) or not node:
            yield path, node
            return
        for key, value in node.items():
            yield from walk(value, f"{path}.{key}" if path else key)

    return dict(walk(block.model_dump(mode="json", exclude_unset=True), ""))
