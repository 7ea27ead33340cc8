"""`fbr tables`: what was measured beside what was published, from results/ or from MLflow."""

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import urlsplit

from fbr import params, published, track
from fbr.errors import Refusal, chosen
from fbr.files.atomic import write_text
from fbr.files.tables import read_json
from fbr.published import Column, Row, TableBlock
from fbr.show.page import Report, Section, page
from fbr.show.tables import Cell, Link, Number, Table, latex_table, markdown_table
from fbr.stages.job import Job
from fbr.stages.report import Upstream
from fbr.study import plan
from fbr.workspace import Workspace, axes_of

FROM_RUN = ("seconds", "peak_memory_mb")
INTRO = (
    "Mean ± standard deviation over the seeds that are there, in percent where nothing else is "
    "said. The verdict is within where the difference stays within the tolerance of its column: a "
    "point, where workflow/tables says nothing else. Links open while MLflow's server runs."
)


def main(argv: list[str], workspace: Workspace) -> int:
    """Write tables.md, tables.tex and index.html to reports/tables; runs nothing."""
    parser = argparse.ArgumentParser(prog="fbr tables", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="as in workflow/tables; or all")
    parser.add_argument("--mlflow", action="store_true", help="read MLflow's runs, not results/")
    asked = parser.parse_args(argv)
    if asked.mlflow and track.store(workspace.root) is None:
        raise Refusal("no mlflow.db here, and MLFLOW_TRACKING_URI is not set; set it")
    known = published.load(workspace.tables)
    if not known:
        raise Refusal(f"{workspace.tables}: found no table there, expected some <name>.yaml")
    blocks = {name: chosen(known, name, "fbr tables") for name in asked.names or known}
    reading = Stored if asked.mlflow else Reading
    lines = {name: list(reading(workspace, block).lines()) for name, block in blocks.items()}
    folder = workspace.root / "reports" / "tables"
    write(folder, blocks, {name: shown(blocks[name], found) for name, found in lines.items()})
    for name, found in lines.items():
        print(f"{name:<12} {summary(found)}")
    print(f"\ntables: {(folder / 'index.html').relative_to(workspace.root)}")
    return 0


@dataclass(frozen=True)
class Score:
    """One seed's number, the MLflow run behind it, and what keeps it from being compared."""

    seed: str
    value: float | None
    run: str | None
    fault: str | None


@dataclass(frozen=True)
class Line:
    """One number of one row: what is known of it, and every seed's score."""

    row: str
    column: Column
    published: float | None
    source: str
    scores: tuple[Score, ...]

    @property
    def compared(self) -> list[float]:
        """What counts: the numbers of the present recipe on the published split."""
        return [s.value for s in self.scores if s.fault is None and s.value is not None]

    @property
    def verdict(self) -> str:
        if self.compared and self.published is not None:
            return published.verdict(self.column, fmean(self.compared), self.published)
        if self.compared:
            return "measured"
        faults = dict.fromkeys(s.fault or "not measured" for s in self.scores)
        return ", ".join(faults) or "not run"


class Reading:
    """One table, read off the results of a workspace, or of the study that its rows are of."""

    def __init__(self, home: Workspace, block: TableBlock) -> None:
        self.home, self.block = home, block

    def lines(self) -> Iterator[Line]:
        """Every line of the table, in its order."""
        for row, axes in self._rows():
            source = self.block.sources.get(row.source or "", "")
            for column, value in self.block.lines(row):
                scores = tuple(self._scores(column, axes))
                yield Line(row.label, column, value, source, scores)

    def _rows(self) -> Iterator[tuple[Row, dict[str, str]]]:
        """Rows with their axes; of a study, those of its variants."""
        if self._study is None:
            yield from ((row, self.block.axes(row)) for row in self.block.rows)
            return
        there = {row.name: row for row in self._study.rows}
        own = [Row(label=row.label, row=row.name) for row in there.values()]
        for row in self.block.rows or own:
            found = chosen(there, row.row, f"{self.block.study.file}: {self._study.name}")
            yield row, self.block.axes(row) | {"data": self._study.data} | found.axes

    @cached_property
    def _asked(self) -> plan.Study | None:
        study = self.block.study
        return study and plan.load(self.home.root / study.file, self.home.params)

    @cached_property
    def _study(self) -> plan.Table | None:
        if self._asked is None:
            return None
        tables = {table.name: table for table in self._asked.tables}
        return chosen(tables, self.block.study.table, self.block.study.file)

    @cached_property
    def _place(self) -> Workspace:
        if self._asked is None:
            return self.home
        return Workspace(self.home.root / "studies" / self._asked.name)

    def _scores(self, column: Column, axes: Mapping[str, str]) -> Iterator[Score]:
        for stage in column.stages:
            own = {axis: axes[axis] for axis in axes_of(stage) if axis != "seed"}
            for seed, score in self._found(stage, own):
                fault = column.on(score) or self._outdated(stage, own | {"seed": seed}, score)
                yield Score(seed, column.of(score), score.get("mlflow_run"), fault)

    def _found(self, stage: str, axes: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every seed with its score."""
        root = self._place.root
        folder = self._place.beside(stage, axes | {"seed": "*"}).relative_to(root)
        for there in sorted(root.glob(str(folder))):
            if score := read(there):
                yield there.relative_to(root).parts[2], score

    def _outdated(self, stage: str, axes: dict[str, str], score: Mapping[str, Any]) -> str | None:
        """Whether params.yaml asks for other numbers now; a server's answer is its archive's."""
        written = next(iter(self._place.outputs(stage, axes).values()))
        return "outdated" if self._upstream.changed({"file": str(written)}) else None

    @cached_property
    def _upstream(self) -> Upstream:
        return Upstream(Job("report", {}, self._numbers, self._place, threads=1))

    @cached_property
    def _numbers(self) -> params.Params:
        """The project's, or the study's as it asks for them now."""
        if self._asked is None:
            return params.load(self.home.params)
        return params.check(self._asked.blocks, params.Params, self.block.study.file)


class Stored(Reading):
    """The same read off MLflow's runs, the last of each; numbers of earlier stages go unchecked."""

    def _found(self, stage: str, axes: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        wanted = axes | {"stage": stage}
        runs = [run for run in stored(self._place.root) if wanted.items() <= run.items()]
        last = {run["seed"]: run | {"split": run["params"].get("split")} for run in runs}
        yield from sorted(last.items())

    def _outdated(self, stage: str, axes: dict[str, str], score: Mapping[str, Any]) -> str | None:
        try:
            numbers = self._numbers.of(stage, axes).model_dump(mode="json")
        except Refusal:  # its block is gone from params.yaml
            return "outdated"
        return None if track.as_text(numbers) == score["params"] else "outdated"


@cache
def stored(root: Path) -> list[dict[str, Any]]:
    """The finished runs of a folder's store, if there is one."""
    return track.finished(root) if track.store(root) else []


def read(folder: Path) -> dict[str, Any]:
    """metrics.json of a stage, with what run.json beside it knows; empty where there is neither."""
    score, run = folder / "metrics.json", folder / "run.json"
    found = read_json(score) if score.is_file() else {}
    if not isinstance(found, dict):
        raise Refusal(f'{score}: expected names and numbers, as in {{"miou": 0.7}}; mend it')
    known = read_json(run) if run.is_file() else {}
    if known.get("seconds") is not None:
        found |= {key: known.get(key) for key in FROM_RUN}
    return found and found | {"mlflow_run": known.get("mlflow_run")}


def shown(block: TableBlock, lines: list[Line]) -> Table:
    """The table as it is printed; a row's name stands at its first line."""
    rows, before = [], None
    for line in lines:
        digits, found = line.column.digits, line.compared
        measured = fmean(found) if found else None
        spread = stdev(found) if len(found) > 1 else None
        number = line.published
        rows.append(
            (
                line.row if (line.row, line.source) != before else "",
                line.column.label,
                None if measured is None else Number(measured, spread, digits),
                len(found) or None,
                None if number is None else Number(number, digits=_decimals(number, digits)),
                None
                if measured is None or number is None
                else Number(measured - number, digits=digits, signed=True),
                line.verdict,
                _links(line),
                line.source if number is not None else None,
            )
        )
        before = line.row, line.source
    names = ("method", "number", "measured", "seeds", block.reference, "difference")
    return Table((*names, "verdict", "runs", "source"), tuple(rows), block.note)


def _decimals(number: float, least: int) -> int:
    """As many as it was published with."""
    return max(least, len(f"{number!r}".partition(".")[2]))


def _links(line: Line) -> Cell:
    """The seeds, each leading to its MLflow run."""
    scores = [s for s in line.scores if s.run]
    return tuple(Link(s.seed, f"{server()}/#/runs/{s.run}") for s in scores) or None


def server() -> str:
    """Where MLflow's pages are: its server without the password, or where `mlflow ui` serves."""
    at = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if at.scheme not in ("http", "https"):
        return "http://127.0.0.1:5000"
    return at._replace(netloc=at.netloc.rpartition("@")[2]).geturl().rstrip("/")


def write(folder: Path, blocks: Mapping[str, TableBlock], tables: Mapping[str, Table]) -> None:
    """Write all tables in each language."""
    titles = {name: block.title for name, block in blocks.items()}
    markdown = [f"## {titles[n]}\n\n{markdown_table(t)}" for n, t in tables.items()]
    write_text(folder / "tables.md", "\n".join([f"# Tables\n\n{INTRO}\n", *markdown]))
    latex = [f"% {titles[n]}\n{latex_table(t)}" for n, t in tables.items()]
    write_text(folder / "tables.tex", "\n".join(latex))
    sections = tuple(Section(titles[name], "", (table,)) for name, table in tables.items())
    write_text(folder / "index.html", page(Report("Measured and published", INTRO, sections)))


def summary(lines: list[Line]) -> str:
    """How many lines were measured, and how the verdicts fall."""
    verdicts = [line.verdict for line in lines]
    counts = [f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)]
    return f"{len(lines)} lines: {', '.join(counts)}"
