"""`fbr study`: a question with error bars, run through the engine and answered in a page.

Rows are variants of a CAM recipe; each runs under every seed, and what rows share runs once.
"""

import argparse
from pathlib import Path

from fbr import engines
from fbr.errors import Refusal, chosen
from fbr.study import pages, plan
from fbr.study.place import Place
from fbr.workspace import Workspace


def main(argv: list[str], workspace: Workspace) -> int:
    """Run what a study still lacks and write its tables; started again, it goes on."""
    asked = _parser().parse_args(argv)
    study = plan.load(Path(asked.file), workspace.params)
    tables = _wanted(study, asked.tables)
    page = workspace.root / study.page
    pages.check(page, study)
    place = Place(workspace, study)
    code = 0
    if asked.dry_run:
        _tell(tables, place)
    elif asked.write:
        pages.write(page, study, scores(study, place))
    else:
        code = _run(study, tables, place, asked.jobs, page)
    done = [place.score(axes) is not None for axes in _runs(tables)]
    print(f"{study.page}: {sum(done)} of {len(done)} runs are finished")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fbr study", description=main.__doc__)
    parser.add_argument("file", help="the study, as in docs/studies/fbr.yaml")
    parser.add_argument("--jobs", type=_count, metavar="N", help="stages at once; one a core")
    parser.add_argument("--tables", metavar="A,B", help="run these tables only")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="only list what is there and not")
    instead.add_argument("--write", action="store_true", help="run nothing, only write the page")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 1 on")
    return int(text)


def _wanted(study: plan.Study, names: str | None) -> list[plan.Table]:
    known = {table.name: table for table in study.tables}
    wanted = names.split(",") if names else known
    return [chosen(known, name, "--tables") for name in wanted]


def _run(
    study: plan.Study, tables: list[plan.Table], place: Place, jobs: int | None, page: Path
) -> int:
    """One seed of all rows after the other, so that every row has its first number early."""
    failed = 0
    with engines.guarded(place.workspace, "study", {"study": study.name}):
        if who := engines.snakemake(place.workspace):
            raise Refusal(f"Snakemake runs in {place.workspace.root} ({who}); wait for it")
        place.set_up()
        for seed in dict.fromkeys(seed for table in tables for seed in table.seeds):
            todo = [axes for axes in _runs(tables) if axes["seed"] == seed]
            todo = [axes for axes in todo if not place.remembered(axes)]
            code = place.run(todo, jobs) if todo else 0
            if code == 2:
                return code
            failed = failed or abs(code)  # below zero where a signal ended it
            pages.write(page, study, scores(study, place))
    return failed


def _runs(tables: list[plan.Table]) -> list[plan.Axes]:
    """The axes of every run, once."""
    found = [axes for table in tables for row in table.rows for axes in table.runs(row)]
    return [axes for number, axes in enumerate(found) if axes not in found[:number]]


def scores(study: plan.Study, place: Place) -> dict[str, pages.Scores]:
    """What is finished: table → row → seed → metrics."""

    def finished(runs: list[plan.Axes]) -> dict[str, dict]:
        return {axes["seed"]: found for axes in runs if (found := place.score(axes))}

    return {t.name: {row.name: finished(t.runs(row)) for row in t.rows} for t in study.tables}


def _tell(tables: list[plan.Table], place: Place) -> None:
    for table in tables:
        print(f"{table.name}, {table.data}")
        for row in table.rows:
            done = [axes["seed"] for axes in table.runs(row) if place.score(axes)]
            left = [seed for seed in table.seeds if seed not in done]
            said = [f"{what} {' '.join(s)}" for what, s in (("done", done), ("missing", left)) if s]
            print(f"  {row.label:<24} {row.variant:<40} {'; '.join(said)}")
