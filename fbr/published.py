"""The tables of workflow/tables: what others published, on which split, and where it would be here.

One YAML a table; this is the only reader. A number without a source is refused, and one that is not
known stays null: it is never guessed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fbr import params
from fbr.errors import Refusal
from fbr.params import Count, Name, NotNegative, Positive, Strict
from fbr.workspace import PATHS, Workspace, axes_of

Names = Annotated[list[Name], Field(min_length=1)]


class Place(Strict):
    """Segments of a result's path, as far as they are said; the seed is never."""

    data: Name | None = None
    cam: Name | None = None
    mask: Name | None = None
    seg: Name | None = None
    inst: Name | None = None


class Column(Strict):
    """One number of a result, and what it must be of to be compared."""

    label: str
    stage: Name | Names  # of several, whichever a variant has
    metric: str = "miou"  # a key of metrics.json, or `seconds` or `peak_memory_mb` of run.json
    split: Name | None = None
    images: Count | None = None  # as few as the split may have
    times: Positive = 100.0  # from the metric to what is shown
    tolerance: NotNegative = 1.0  # in what is shown; a single run scatters by about a point
    digits: Annotated[int, Field(ge=0, le=4)] = 1

    @property
    def stages(self) -> list[str]:
        return [self.stage] if isinstance(self.stage, str) else self.stage

    def on(self, score: Mapping[str, Any]) -> str | None:
        """What a score is on that it must not be on to be compared; None where all is well."""
        if self.split and score.get("split") != self.split:
            return f"of {score.get('split')}"
        if self.images and score.get("images", 0) < self.images:
            return f"of {score.get('images', 0)} images"
        return None

    def of(self, score: Mapping[str, Any]) -> float | None:
        """The number as it is shown; None where the score has none."""
        value = score.get(self.metric)
        number = isinstance(value, int | float) and math.isfinite(value)
        return self.times * value if number else None


class Row(Place):
    """A variant; its lines are the columns under `published`, or all that its path reaches."""

    label: str
    row: Name | None = None  # of the study's table, in place of a cam
    source: Name | None = None  # a key of `sources`
    published: dict[Name, float | None] | None = None


class StudyTable(Strict):
    """A study file, and one of its tables."""

    file: str
    table: Name


class TableBlock(Strict):
    """The whole file."""

    place: Count = 100  # in the order of the tables
    title: str
    note: str = ""
    reference: str = "published"  # what the numbers of `published` are called
    of: Place = Place()
    study: StudyTable | None = None  # whose rows `row` names; without `rows`, all of them
    sources: dict[Name, str] = Field({})
    columns: Annotated[dict[Name, Column], Field(min_length=1)]
    rows: list[Row] = Field([])

    @model_validator(mode="after")
    def _numbers_stand_on_something(self) -> "TableBlock":
        for column in self.columns.values():
            for stage in column.stages:
                if stage not in PATHS:
                    raise ValueError(f"found stage '{stage}', expected one of {', '.join(PATHS)}")
        if not self.rows and not self.study:
            raise ValueError("expected 'rows' or 'study'")
        for row in self.rows:
            if (row.row is None) != (self.study is None):
                raise ValueError(f"row '{row.label}': expected 'row' where there is a 'study'")
            for name, value in (row.published or {}).items():
                if name not in self.columns:
                    raise ValueError(f"row '{row.label}' has '{name}', which is no column")
                if not self.reaches(row, self.columns[name]):
                    raise ValueError(f"row '{row.label}' has '{name}', which its path ends before")
                if value is not None and row.source not in self.sources:
                    raise ValueError(
                        f"row '{row.label}' has numbers but no source; one whose source is "
                        "unknown is null"
                    )
        return self

    def axes(self, row: Row) -> dict[str, str]:
        """The segments of a row's path, the seed left out."""
        both = self.of.model_dump(), row.model_dump(include=set(Place.model_fields))
        return {axis: name for place in both for axis, name in place.items() if name is not None}

    def reaches(self, row: Row, column: Column) -> bool:
        """Whether a row's path is long enough for the stage of a column."""
        known = {"seed", *self.axes(row)} | ({"data", "cam"} if row.row else set())
        return set(axes_of(column.stages[0])) <= known

    def lines(self, row: Row) -> list[tuple[Column, float | None]]:
        """The columns that a row tells, each with the published number where it is known."""
        if row.published is not None:
            return [(self.columns[name], value) for name, value in row.published.items()]
        return [(column, None) for column in self.columns.values() if self.reaches(row, column)]


def load(folder: Path) -> dict[str, TableBlock]:
    """Every table of a folder by the name of its file; none where there is no such folder."""
    found = {
        file.stem: params.check(params.read(file), TableBlock, file.name)
        for file in sorted(folder.glob("*.yaml"))
    }
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def verdict(column: Column, measured: float, published: float) -> str:
    """How a measured number stands to the published one."""
    if abs(measured - published) <= column.tolerance:
        return "within"
    return "above" if measured > published else "below"


@dataclass(frozen=True)
class Expected:
    """A published number for one score of a stage, and whose it is."""

    column: Column
    value: float
    whose: str


def expected(folder: Path, stage: str, axes: Mapping[str, str]) -> list[Expected]:
    """What the tables expect of a stage with these axes, each number of each source once."""
    found = {}
    for table in load(folder).values():
        for row in table.rows:
            own = table.axes(row)
            if row.row or any(own.get(a) != axes[a] for a in axes_of(stage) if a != "seed"):
                continue
            for column, value in table.lines(row):
                if value is not None and stage in column.stages:
                    whose = f"{row.label}, {table.sources[row.source]}"
                    key = column.metric, column.split, value, table.sources[row.source]
                    found.setdefault(key, Expected(column, value, whose))
    return list(found.values())


def told(
    workspace: Workspace, stage: str, axes: Mapping[str, str], score: Mapping[str, Any]
) -> list[str]:
    """Lines for a log: each expected number against what was obtained.

    A fault in a table is told, too, and costs no result.
    """
    try:
        found = expected(workspace.tables, stage, axes)
    except Refusal as refusal:
        return [f"no expected values: {refusal}"]
    return [_said(one, score) for one in found]


def _said(one: Expected, score: Mapping[str, Any]) -> str:
    column, obtained = one.column, one.column.of(score)
    wanted = f"expected {one.value:.{column.digits}f} ± {column.tolerance:g} ({one.whose})"
    if obtained is None:
        return f"{column.metric}: {wanted}, obtained none"
    got = f"obtained {obtained:.{column.digits}f}"
    if other := column.on(score):
        return f"{column.metric}: {wanted}, {got} {other}, which does not compare"
    return f"{column.metric}: {wanted}, {got}: {verdict(column, obtained, one.value)}"
