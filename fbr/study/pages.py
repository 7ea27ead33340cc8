"""What a study found: tables between the markers of its page, curves, and every single run."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fbr.errors import Refusal, nearest
from fbr.files.atomic import write_text
from fbr.files.tables import write_csv
from fbr.metrics.paired import paired
from fbr.show import plots
from fbr.show.tables import Cell, Number, Table, markdown_table
from fbr.study import plan

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]  # row → seed → metrics.json and seconds

SHARES = {
    "miou": "mIoU",
    "miou_oracle": "oracle",
    "spill_background": "on background",
    "spill_companions": "on companions",
}
OF_LABELS = {  # of masks and predictions
    "miou": "mIoU",
    "miou_oracle": "oracle",
    "boundary_iou": "boundary",
    "fp": "over",
    "fn": "under",
}
BOTH = {"miou": "mIoU", "miou_oracle": "oracle"}  # of further splits, too
_OPEN, _CLOSE = r"<!-- study:(\S+) -->", "<!-- /study -->"
_SECTION = re.compile(rf"({_OPEN}\n).*?({_CLOSE})", re.DOTALL)


def write(page: Path, study: plan.Study, scores: Mapping[str, Scores]) -> None:
    """Write the tables anew, and in `<study>-runs/` every run and a chart for each sweep."""
    runs = page.parent / study.runs.relative_to(study.page.parent)
    parts = {}
    for table in study.tables:
        found = scores[table.name]
        parts[table.name] = markdown_table(shown(table, found))
        if any(found[row.name] for row in table.sweep):
            chart = runs.parent / f"{table.name}.svg"
            write_text(chart, curve(table, found) + "\n")
            link = os.path.relpath(chart, page.parent)
            parts[table.name] += f"\n![mIoU over {table.swept}]({link})\n"
    write_csv(runs, singles(study.tables, scores))
    text = page.read_text(encoding="utf-8")
    if (new := filled(text, parts, page)) != text:
        write_text(page, new)


def check(page: Path, study: plan.Study) -> None:
    """Refuse a page that has not one pair of markers for each table."""
    if not page.is_file():
        marks = f"<!-- study:{study.tables[0].name} -->", _CLOSE
        raise Refusal(f"{page}: not found; write it, with a line {marks[0]} and a line {marks[1]}")
    filled(page.read_text(encoding="utf-8"), {table.name: "" for table in study.tables}, page)


def filled(text: str, parts: Mapping[str, str], page: Path) -> str:
    """Put each table's part between its markers; everything else stays as it is."""
    marked = re.findall(_OPEN, text)
    for name in marked:
        if name not in parts:
            raise Refusal(
                f"{page}: found a marker of table '{name}', expected one of {', '.join(parts)}."
                f"{nearest(name, parts)}"
            )
    for name in parts:
        if marked.count(name) != 1:
            raise Refusal(
                f"{page}: found {marked.count(name)} markers <!-- study:{name} -->, expected one; "
                f"close it with {_CLOSE}"
            )
    sections = [match[2] for match in _SECTION.finditer(text)]
    if sections != marked or text.count(_CLOSE) != len(marked):
        raise Refusal(
            f"{page}: markers do not pair up; behind each <!-- study:… --> comes one {_CLOSE}"
        )
    return _SECTION.sub(lambda match: f"{match[1]}\n{parts[match[2]]}\n{match[3]}", text)


def shown(table: plan.Table, scores: Scores) -> Table:
    """One line a row: mean ± standard deviation over seeds, and the paired gain on the baseline."""
    runs = [run for seeds in scores.values() for run in seeds.values()]
    maps = table.stage == "cam_eval"
    always = ("miou", "miou_oracle") if maps else ("miou",)
    named = SHARES if maps else OF_LABELS
    shares = {k: name for k, name in named.items() if k in always or any(k in r for r in runs)}
    others = sorted({split for run in runs for split in _others(run)})
    further = {
        f"{key}_{split}": f"{name}, {split}" for split in others for key, name in BOTH.items()
    }
    shares |= {k: name for k, name in further.items() if any(k in run for run in runs)}
    columns = [table.swept or "row", "seeds", *shares.values()]
    gains = {"miou": "mIoU"}
    if maps:
        # A row that has its threshold from another may lose by it alone.
        gains["miou_oracle"] = "oracle"
    if table.stage != "seg_eval":  # of splits, not of ways of testing
        gains |= {f"miou_{split}": split for split in others}
    if table.baseline:
        columns += [f"{name} − {table.baseline.label}" for name in gains.values()]
    if own := any(row.against for row in table.rows):
        columns += [f"{name} − own base" for name in gains.values()]
    lines = []
    for row in table.rows:
        seeds = scores[row.name]
        cells: list[Cell] = [row.label, len(seeds) or "not run"]
        cells += [_percent(seeds, key) for key in shares]
        if table.baseline:
            cells += [_gain(seeds, scores[table.baseline.name], key) for key in gains]
        if own:
            base = scores[row.against] if row.against else seeds
            cells += [_gain(seeds, base, key) for key in gains]
        lines.append((*cells, _spread((run["seconds"] for run in seeds.values()), 0)))
    spent = "training, s" if maps else "all stages, s"
    return Table((*columns, spent), tuple(lines), _caption(table, runs))


def _percent(seeds: Mapping[str, Mapping[str, Any]], key: str) -> Number | None:
    found = [run.get(key) for run in seeds.values()]
    return _spread(None if share is None else 100 * share for share in found)


def _spread(values: Iterable[float | None], digits: int = 1) -> Number | None:
    """Mean ± standard deviation of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Number(fmean(known), stdev(known) if len(known) > 1 else None, digits)


def _others(run: Mapping[str, Any]) -> list[str]:
    """Names of further splits, or ways of testing, that a run was scored on."""
    names = [key.removeprefix("miou_") for key in run if key.startswith("miou_")]
    return [n for n in names if n not in ("low", "high") and not n.startswith("oracle")]


def _further(scores: Mapping[str, Scores]) -> list[str]:
    """Keys of the scores on further splits, or in further ways."""
    runs = [run for table in scores.values() for row in table.values() for run in row.values()]
    keys = {f"{key}_{split}" for run in runs for split in _others(run) for key in BOTH}
    return sorted(key for key in keys if any(key in run for run in runs))


def _gain(ours: Mapping[str, Mapping], theirs: Mapping[str, Mapping], key: str) -> str | None:
    if ours is theirs:
        return None
    both = [s for s in ours if s in theirs and key in ours[s] and key in theirs[s]]
    gain = paired(*([100 * scores[seed][key] for seed in both] for scores in (ours, theirs)))
    if gain is None:
        return None
    interval = f" [{gain.low:+.1f}, {gain.high:+.1f}]" if gain.pairs > 1 else ""
    return f"{gain.mean:+.1f}{interval}"


def _caption(table: plan.Table, runs: list[Mapping[str, Any]]) -> str:
    """What the numbers are on, and how to read them."""
    on = _joined({_on(run) for run in runs})
    said = f"{table.data}, {'; '.join(on) or 'nothing run yet'}. "
    said += f"Percent, mean ± standard deviation over seeds, {len(table.seeds)} wanted."
    if table.baseline:
        said += (
            f" mIoU − {table.baseline.label}: mean difference under the same seeds, with its 95 % "
            "confidence interval (Student's t)."
        )
        if table.stage == "cam_eval":
            said += f" Oracle − {table.baseline.label}: likewise, each run at its best threshold."
    if any(row.against for row in table.rows):
        said += " mIoU − own base: likewise, against the row that it builds on."
    return said


def _joined(on: Iterable[str]) -> list[str]:
    """What differs in its threshold alone is said once."""
    thresholds: dict[str, list[str]] = {}
    for said in sorted(on):
        same, threshold, number = said.partition(" threshold ")
        thresholds.setdefault(same + threshold, []).append(number)
    return [same + ", ".join(numbers) for same, numbers in thresholds.items()]


def _on(run: Mapping[str, Any]) -> str:
    """Which images a score is on, and by which rule; of a remembered run, what was said then."""
    return run.get("on") or f"{run['split']} ({run['images']} images), {_rule(run)}"


def _rule(run: Mapping[str, Any]) -> str:
    """How labels were made."""
    if "threshold" in run:
        return f"fixed threshold {run['threshold']:g}"
    scales = ", ".join(f"{scale:g}" for scale in run["scales"])
    more = [", flip"] * run["flip"] + [", CRF"] * bool(run["crf"])
    return f"scales {scales}{''.join(more)}"


def curve(table: plan.Table, scores: Scores) -> str:
    """The rows of a sweep as dots with whiskers of one standard deviation."""
    found = [_percent(scores[row.name], "miou") for row in table.sweep]
    values = [number.value if number else math.nan for number in found]
    spreads = [number.spread or 0.0 if number else 0.0 for number in found]
    names = [row.label for row in table.sweep]
    return plots.dots(names, values, spreads, f"{table.name}, {table.data}", table.swept, "mIoU, %")


def singles(tables: Sequence[plan.Table], scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Every finished run, unrounded; `variant` names the folder of its results."""
    labels = OF_LABELS if any(table.stage != "cam_eval" for table in tables) else {}
    keys = dict.fromkeys((*SHARES, *labels, *_further(scores), "seconds"))
    return [
        {"table": table.name, "row": row.name, "variant": row.variant, "seed": seed}
        | {"recipe": run["recipe"], "on": _on(run)}
        | {key: run.get(key) for key in keys}
        for table in tables
        for row in table.rows
        for seed, run in scores[table.name][row.name].items()
    ]
