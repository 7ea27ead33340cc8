"""report: tables, pictures and provenance of everything run on a dataset."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from fbr import pipeline
from fbr.files import maps, pictures
from fbr.files.atomic import PartialFolder, write_bytes, write_text
from fbr.files.tables import read_csv, read_json
from fbr.show import overlays, plots
from fbr.show.page import Chart, KeyValues, Picture, Report, Section, Text, page
from fbr.show.palette import css_colour, name_colours
from fbr.show.tables import Number, Table, latex_table, markdown_table
from fbr.stages.job import Job
from fbr.stages.overlays import cam_tile
from fbr.workspace import PATHS

# What a score table shows of a stage: the name of the thing scored, and its numbers in percent.
SCORED = {
    "cam_eval": ("CAM", ("miou", "miou_oracle")),
    "mask_eval": ("mask", ("miou",)),
    "seg_eval": ("segmentation", ("miou",)),
    "wsis_eval": ("instances", ("AP50", "AP75", "AP")),
}


@dataclass(frozen=True)
class Score:
    """The metrics of one experiment, a list of one file a seed."""

    stage: str
    path: tuple[str, ...]  # cam, mask, seg or cam, inst
    seeds: tuple[str, ...]
    metrics: tuple[dict, ...]

    @property
    def name(self) -> str:
        return " / ".join(self.path)

    def number(self, key: str) -> Number | None:
        """Mean over seeds in percent, ± the standard deviation where there are two or more."""
        values = [100 * m[key] for m in self.metrics if m.get(key) is not None]
        if not values:
            return None
        return Number(mean(values), stdev(values) if len(values) > 1 else None)


def run(job: Job) -> None:
    """Collect whatever there is for this dataset; say it on the terminal, too."""
    results = job.workspace.root / "results" / job.axes["data"]
    scores = collect(results)
    table = score_table(scores)
    write_text(job.out("tables.md"), markdown_table(table) + "\n")
    write_text(job.out("tables.tex"), latex_table(table) + "\n")
    panels = pictures_of(job, results)
    folder = PartialFolder(job.out("overlays"), job.key())
    for name, _, encoded in panels:
        write_bytes(folder / f"{name}.jpg", encoded)
    folder.finish()
    sections = (
        Section("Scores", score_intro(scores), (table, *class_bars(job, results))),
        Section("Pictures", "", tuple(_shown(job, *panel) for panel in panels)),
        Section("Threshold curves", THRESHOLD_INTRO, tuple(threshold_curves(results))),
        Section("Training", "", tuple(training_curves(results))),
        Section("Pipeline", GRAPH_INTRO, (Chart(pipeline_graph(job)),)),
        Section("Provenance", "", tuple(provenance(job, results)), folded=False),
        Section("Parameters", "", (Text(parameters(job), verbatim=True),), folded=True),
    )
    count = len(job.data.entries)
    subtitle = f"{len(scores)} scores, {count} images, {job.data.foreground} classes"
    html = job.beside / "index.html"
    write_text(html, page(Report(f"fbr on {job.axes['data']}", subtitle, sections)))
    print(in_columns(table))
    print(f"\nreport: {html.relative_to(job.workspace.root)}")


THRESHOLD_INTRO = (
    "Score of the maps at every background threshold. The recipe's threshold is fixed beforehand; "
    "the best one is chosen on ground truth and therefore called oracle."
)
GRAPH_INTRO = "An arrow that a longer way implies is left out."


def collect(results: Path) -> list[Score]:
    """Every metrics.json under results/<data>, grouped over seeds."""
    found: dict[tuple, list[tuple[str, dict]]] = defaultdict(list)
    for file in sorted(results.rglob("metrics.json")):
        seed, *path, stage = file.parent.relative_to(results).parts
        if stage in SCORED:
            found[stage, tuple(path)].append((seed, read_json(file)))
    return [
        Score(stage, path, *(tuple(column) for column in zip(*seeds, strict=True)))
        for (stage, path), seeds in sorted(
            found.items(), key=lambda item: (list(SCORED).index(item[0][0]), item[0][1])
        )
    ]


def score_table(scores: list[Score]) -> Table:
    """One row an experiment; what each number is on stands beside it."""
    rows = []
    for score in scores:
        what, keys = SCORED[score.stage]
        first = score.metrics[0]
        numbers = [score.number(k) for k in keys]
        miou = numbers[0] if score.stage != "wsis_eval" else None
        oracle = score.number("miou_oracle")
        ap50 = numbers[0] if score.stage == "wsis_eval" else None
        rows.append(
            (
                score.name,
                what,
                miou,
                oracle,
                ap50,
                len(score.seeds),
                f"{first['split']} ({first['images']})",
                _how(first),
            )
        )
    columns = ("experiment", "score of", "mIoU", "oracle", "AP50", "seeds", "split", "how")
    return Table(columns, tuple(rows), "Percent, mean ± standard deviation over seeds.")


def _how(metrics: dict) -> str:
    """Threshold, scales, flip and CRF of a number, as far as they apply."""
    said = []
    if "threshold" in metrics:
        said.append(f"{metrics['threshold_choice']} threshold {metrics['threshold']:g}")
    if "scales" in metrics:
        scales = len(metrics["scales"])
        said.append(
            f"{scales} scale{'s' if scales > 1 else ''}{', flip' if metrics['flip'] else ''}"
        )
    if "crf" in metrics:
        said.append("CRF" if metrics["crf"] else "no CRF")
    return ", ".join(said)


def score_intro(scores: list[Score]) -> str:
    seeds = sorted({seed for score in scores for seed in score.seeds})
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): no spread can be told, and small differences mean nothing."
    return f"Seeds: {', '.join(seeds)}."


def in_columns(table: Table) -> str:
    """The table as aligned text for a terminal."""
    shown = [table.columns] + [
        tuple("" if cell is None else str(cell) for cell in row) for row in table.rows
    ]
    widths = [max(len(row[i]) for row in shown) for i in range(len(table.columns))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in shown]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def class_bars(job: Job, results: Path) -> list[Chart]:
    """Per-class IoU of every scored experiment, mean over seeds."""
    found: dict[str, list[list[dict]]] = defaultdict(list)
    for file in sorted(results.rglob("per_class.csv")):
        _, *path, stage = file.parent.relative_to(results).parts
        found[f"{' / '.join(path)}, {SCORED[stage][0]}"].append(read_csv(file))
    charts = []
    for name, tables in found.items():
        classes = [row["class"] for row in tables[0]]
        columns = [[100 * float(t[i]["iou"] or "nan") for t in tables] for i in range(len(classes))]
        spread = [stdev(c) if len(c) > 1 else math.nan for c in columns]
        errors = spread if len(tables) > 1 else None
        charts.append(Chart(plots.bars(classes, [mean(c) for c in columns], errors, name)))
    return charts


def pictures_of(job: Job, results: Path) -> list[tuple[str, str, bytes]]:
    """(name, caption, JPEG) of a few images through all stages of the first seed, spread evenly."""
    by_split: dict[str, list] = defaultdict(list)
    for entry in job.data.entries:
        if job.data.has("masks", entry):
            by_split[entry.splits[0]].append(entry)
    panels = []
    for split in [s for s in ("train", "val") if s in by_split]:
        chosen = _spread(by_split[split], job.numbers.images)
        for entry in chosen:
            image, truth = job.data.image(entry), job.data.mask(entry)
            tiles = [("image", image), *_through_stages(results, entry.id, image, truth)]
            if len(tiles) > 1:
                tiles.append(("truth", overlays.mask_overlay(image, truth)))
                names = ", ".join(job.data.classes[c] for c in entry.classes)
                encoded = overlays.to_jpeg_bytes(overlays.panel(tiles))
                panels.append((entry.id, f"{split}: {names}", encoded))
    return panels


def _spread(entries: list, count: int) -> list:
    step = max(1, len(entries) // count)
    return entries[::step][:count]


def _through_stages(results: Path, id: str, image, truth) -> list[tuple]:  # noqa: ANN001
    seeds = sorted(p for p in results.iterdir() if p.is_dir()) if results.is_dir() else []
    tiles = []
    for seed in seeds[:1]:
        for file in sorted(seed.glob(f"*/cam_infer/cams/{id}.npz")):
            tiles.append((f"CAM {file.parts[-4]}", cam_tile(image, maps.read(file).cam)))
        for file in sorted(seed.glob(f"*/*/masks/{id}.png")):
            mask = pictures.read_mask(file)
            tiles.append((f"{file.parts[-4]} {file.parts[-3]}", overlays.mask_overlay(image, mask)))
        for file in sorted(seed.glob(f"*/*/*/seg_eval/pred/{id}.png")):
            mask, name = pictures.read_mask(file), f"{file.parts[-5]} {file.parts[-4]}"
            tiles.append((name, overlays.mask_overlay(image, mask)))
            tiles.append(("errors", overlays.error_map(mask, truth)))
    return tiles


def _shown(job: Job, name: str, caption: str, encoded: bytes) -> Picture:
    colours = name_colours(job.data.classes)
    legend = [(n, colours[n]) for n in caption.split(": ", 1)[1].split(", ")]
    if caption.startswith("val"):
        legend += [(n, css_colour(c)) for n, c in overlays.ERROR_COLOURS.items()]
    return Picture(encoded, f"{name}, {caption}", tuple(legend))


def threshold_curves(results: Path) -> list[Chart]:
    """mIoU over the background threshold, one chart a CAM, one curve a seed."""
    found: dict[str, dict] = defaultdict(dict)
    marks: dict[str, list] = {}
    for file in sorted(results.glob("*/*/cam_eval/curve.csv")):
        seed, cam = file.relative_to(results).parts[:2]
        rows = read_csv(file)
        xs = [float(r["threshold"]) for r in rows]
        found[cam][seed] = (xs, [100 * float(r["miou"] or "nan") for r in rows])
        metrics = read_json(file.with_name("metrics.json"))
        marks[cam] = [(metrics["threshold"], "fixed"), (metrics["threshold_oracle"], "oracle")]
    return [
        Chart(plots.line_chart(curves, cam, "background threshold", "mIoU, %", marks[cam]))
        for cam, curves in found.items()
    ]


def training_curves(results: Path) -> list[Chart]:
    """Losses over steps of every trained network, one curve a loss and seed."""
    found: dict[str, dict] = defaultdict(dict)
    for file in sorted(results.rglob("history.csv")):
        seed, *path, stage = file.parent.relative_to(results).parts
        rows = read_csv(file)
        for loss in [k for k in rows[0] if k not in ("step", "lr")]:
            steps = [float(r["step"]) for r in rows]
            curve = (steps, [float(r[loss] or "nan") for r in rows])
            found[f"{stage}, {' / '.join(path)}"][f"{loss} {seed}"] = curve
    return [Chart(plots.line_chart(c, name, "step", "loss")) for name, c in found.items()]


def pipeline_graph(job: Job) -> str:
    """The stages of dvc.yaml as a drawing."""
    stages = pipeline.load(job.workspace.pipeline)
    return plots.graph([(s.name, s.desc) for s in stages], sorted(pipeline.edges(stages)))


def provenance(job: Job, results: Path) -> list:
    """Who ran what, where, when, how long, with how much memory."""
    records = [(file, read_json(file)) for file in sorted(results.rglob("run.json"))]
    rows = tuple(
        (
            "/".join(file.parent.relative_to(results).parts),
            r["seconds"],
            r["peak_memory_mb"],
            r["engine"],
            (r.get("git_commit") or "")[:10] + ("+" if r.get("git_dirty") == "true" else ""),
            r["started"],
        )
        for file, r in records
        if list(PATHS).index(r["stage"]) >= 0
    )
    columns = ("stage", "seconds", "peak MB", "engine", "commit", "started")
    blocks: list = [Table(columns, rows, "A commit with + had uncommitted changes.")]
    machines = sorted({r["machine"] for _, r in records})
    versions = sorted({f"{k} {v}" for _, r in records for k, v in r["versions"].items()})
    facts = [("machine", "; ".join(machines)), ("versions", ", ".join(versions))]
    seconds = sum(r["seconds"] or 0 for _, r in records)
    return [KeyValues((*facts, ("all stages together", f"{seconds:.0f} s"))), *blocks]


def parameters(job: Job) -> str:
    return job.workspace.params.read_text(encoding="utf-8")
