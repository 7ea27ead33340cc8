"""report: tables, pictures and provenance of everything run on a dataset."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fbr import params, pipeline
from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.files import maps, pictures
from fbr.files.atomic import PartialFolder, write_bytes, write_text
from fbr.files.tables import read_json
from fbr.show import overlays, plots
from fbr.show.page import Chart, KeyValues, Picture, Report, Section, Text, page
from fbr.show.palette import css_colour, name_colours
from fbr.show.tables import Number, Table, latex_table, markdown_table
from fbr.stages.job import Job
from fbr.stages.overlays import Tiles, cam_tile, instance_tiles
from fbr.workspace import AXES

# What each evaluation scores, in the order of the table, and the numbers that the table shows.
SCORED = {
    "cam_eval": "CAM",
    "mask_eval": "mask",
    "seg_eval": "segmentation",
    "wsis_eval": "instances",
}
COLUMNS = {
    "miou": "mIoU",
    "boundary_iou": "boundary",
    "miou_oracle": "oracle",
    "spill_background": "on background",
    "spill_companions": "on companions",
    "AP50": "AP50",
}


def run(job: Job) -> None:
    """Collect whatever there is for this dataset; say it on the terminal, too."""
    results = job.workspace.root / "results" / job.axes["data"]
    scores = collect(results)
    scores["outdated"] = [Upstream(job).changed(row) for row in scores.to_dict("records")]
    table = score_table(scores)
    write_text(job.out("tables.md"), markdown_table(table) + "\n")
    write_text(job.out("tables.tex"), latex_table(table) + "\n")
    panels = pictures_of(job, results)
    folder = PartialFolder(job.out("overlays"), job.key(), fresh=True)
    for entry, _, encoded in panels:
        write_bytes(folder / f"{entry.id}.jpg", encoded)
    folder.finish()
    sections = (
        Section("Scores", score_intro(scores), (table, *class_bars(results))),
        Section("Pictures", "", tuple(_shown(job, *panel) for panel in panels)),
        Section("Threshold curves", THRESHOLD_INTRO, tuple(threshold_curves(results))),
        Section("Training", "", tuple(training_curves(results))),
        Section("Pipeline", GRAPH_INTRO, (Chart(pipeline_graph(job)),)),
        Section("Provenance", "", tuple(provenance(job, results)), folded=False),
        Section("Parameters", "", (Text(parameters(job), verbatim=True),), folded=True),
    )
    count = len(job.data.entries)
    subtitle = f"{len(table.rows)} scores, {count} images, {job.data.foreground} classes"
    html = job.beside / "index.html"
    write_text(html, page(Report(f"fbr on {job.axes['data']}", subtitle, sections)))
    print(in_columns(table))
    print(f"\nreport: {html.relative_to(job.workspace.root)}")


THRESHOLD_INTRO = (
    "Score of the maps at every background threshold. The recipe's threshold is fixed beforehand; "
    "the best one is chosen on ground truth and therefore called oracle."
)
GRAPH_INTRO = (
    "An arrow that a longer way implies is left out, and so are those from a second round of maps "
    "back into the stages that all maps go through."
)


def collect(results: Path) -> pd.DataFrame:
    """Every metrics.json under results/<data>: stage, experiment (the path) and seed beside it."""
    rows = []
    for file in sorted(results.rglob("metrics.json")):
        seed, *path, stage = file.parent.relative_to(results).parts
        if stage in SCORED:
            place = {"stage": stage, "experiment": " / ".join(path), "seed": seed}
            metrics = read_json(file) | place | {"file": str(file)}
            also = metrics.pop("also", {})
            rows.append(metrics)
            for name, more in also.items():
                rows.append(metrics | more | {"experiment": f"{place['experiment']}, {name}"})
    frame = pd.DataFrame(rows, columns=None if rows else ["stage", "experiment", "seed", "file"])
    frame["stage"] = pd.Categorical(frame["stage"], list(SCORED))
    frame["outdated"] = False
    return frame.sort_values(["stage", "experiment", "seed"], ignore_index=True)


class Upstream:
    """Whether a score still is what params.yaml asks for, all the way up to `prepare`.

    A row of an earlier setting stays in the folder until its stage runs again; it must not pass
    for a result of the present one. Judged by what run.json recorded; without one, by nothing.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stages = pipeline.load(job.workspace.pipeline)
        self.blocks = params.read(job.workspace.params)

    def changed(self, score: dict) -> bool:
        """Whether the numbers of any stage behind this score have changed since it ran."""
        path = Path(score["file"]).relative_to(self.job.workspace.root)
        return self._changed(str(path))

    def _changed(self, path: str) -> bool:
        try:
            stage, axes = pipeline.writer(path, self.stages, self.blocks)
            asked = replace(self.job, stage=stage.name, axes=axes).asked
        except Refusal:  # its block is gone from params.yaml
            return True
        record = _record(self.job.workspace.beside(stage.name, axes))
        if record.get("asked", asked) != asked:
            return True
        # What it read may have been made anew since, with numbers that it has not seen.
        for folder, then in record.get("read", {}).items():
            if _record(self.job.workspace.root / folder).get("asked", then) != then:
                return True
        reads = [dep.format(**axes) for dep in stage.deps if not dep.endswith(".py")]
        return any(self._changed(dep) for dep in reads)


def _record(folder: Path) -> dict:
    file = folder / "run.json"
    return read_json(file) if file.is_file() else {}


def score_table(scores: pd.DataFrame) -> Table:
    """One row an experiment: mean ± sd over seeds, and beside it what the number is on."""
    rows = []
    for (stage, experiment), seeds in scores.groupby(
        ["stage", "experiment"], sort=False, observed=True
    ):
        first = seeds.iloc[0]
        numbers = [
            spread(100 * seeds[key].astype(float)) if key in seeds else None for key in COLUMNS
        ]
        split = f"{first['split']} ({first['images']})"
        how = _how(first.dropna(), alone=len(seeds) == 1)
        if seeds["outdated"].any():
            how = f"{how}; OUTDATED: params.yaml asks for other numbers now".removeprefix("; ")
        rows.append((experiment, SCORED[stage], *numbers, len(seeds), split, how))
    columns = ("experiment", "score of", *COLUMNS.values(), "seeds", "split", "how")
    return Table(columns, tuple(rows), "Percent, mean ± standard deviation over seeds.")


def spread(values: pd.Series) -> Number | None:
    """Mean, ± the standard deviation where there are two or more; None where there is nothing."""
    values = values.dropna()
    return Number(values.mean(), values.std() if len(values) > 1 else None) if len(values) else None


def _how(metrics: pd.Series, alone: bool) -> str:
    """Threshold, scales, flip and CRF of a number, as far as they apply.

    alone: of one seed, which tells of no spread, the interval over images.
    """
    if not metrics.get("ground_truth", True):
        return "no ground truth: not scored"
    said = []
    if "threshold" in metrics:
        said.append(f"{metrics['threshold_choice']} threshold {metrics['threshold']:g}")
    if "background_power" in metrics:
        said.append(f"background (1 - strongest)^{metrics['background_power']:g}")
    if "scales" in metrics:
        scales = len(metrics["scales"])
        said.append(
            f"{scales} scale{'s' if scales > 1 else ''}{', flip' if metrics['flip'] else ''}"
        )
    if "power" in metrics:
        said.append(f"maps^{metrics['power']:g}")
    if "crf" in metrics:
        said.append("CRF" if metrics["crf"] else "no CRF")
    if alone and "miou_low" in metrics:
        said.append(
            f"{100 * metrics['miou_low']:.1f} to {100 * metrics['miou_high']:.1f} by images"
        )
    return ", ".join(said)


def score_intro(scores: pd.DataFrame) -> str:
    seeds = sorted(scores["seed"].unique())
    if len(seeds) == 1:
        return f"One seed ({seeds[0]}): no spread can be told, and small differences mean nothing."
    return f"Seeds: {', '.join(seeds)}." if seeds else "Nothing has been scored yet."


def in_columns(table: Table) -> str:
    """The table as aligned text for a terminal."""
    shown = [table.columns] + [
        tuple("" if cell is None else str(cell) for cell in row) for row in table.rows
    ]
    widths = [max(len(row[i]) for row in shown) for i in range(len(table.columns))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in shown]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def class_bars(results: Path) -> list[Chart]:
    """Per-class IoU of every scored experiment, mean ± sd over seeds."""
    found: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for file in sorted(results.rglob("per_class.csv")):
        _, *path, stage = file.parent.relative_to(results).parts
        table = pd.read_csv(file)
        if len(table):  # else there was no ground truth
            found[f"{' / '.join(path)}, {SCORED[stage]}"].append(table)
    charts = []
    for name, tables in found.items():
        iou = 100 * pd.concat(tables).groupby("class", sort=False)["iou"].agg(["mean", "std"])
        errors = iou["std"].tolist() if len(tables) > 1 else None
        charts.append(Chart(plots.bars(iou.index.tolist(), iou["mean"].tolist(), errors, name)))
    return charts


def pictures_of(job: Job, results: Path) -> list[tuple[Entry, str, bytes]]:
    """(image, split, JPEG) of a few images through all stages of the first seed, spread evenly."""
    seeds = sorted(p for p in results.iterdir() if p.is_dir()) if results.is_dir() else []
    instances = detections(seeds[0]) if seeds else {}
    panels = []
    for split in ("train", "val") if seeds else ():
        entries = [e for e in job.data.entries if split in e.splits]
        with_truth = [e for e in entries if job.data.has("masks", e)]
        for entry in _spread(with_truth or entries, job.numbers.images):
            image, truth = job.data.image(entry), job.data.mask(entry) if with_truth else None
            tiles = [("image", image), *_through_stages(seeds[0], entry.id, image, truth)]
            for name, by_image in instances.items():
                if entry.id in by_image:
                    _, found, *_ = instance_tiles(job.data, entry, by_image[entry.id])
                    tiles.append((name, found[1]))
            if len(tiles) > 1:
                if truth is not None:
                    tiles.append(("truth", overlays.mask_overlay(image, truth)))
                encoded = overlays.to_jpeg_bytes(overlays.panel(tiles))
                panels.append((entry, split, encoded))
    return panels


def _spread(entries: list, count: int) -> list:
    step = max(1, len(entries) // count)
    return entries[::step][:count]


def _through_stages(seed: Path, id: str, image: np.ndarray, truth: np.ndarray | None) -> Tiles:
    tiles = []
    for file in sorted(seed.glob(f"*/cam_infer/cams/{id}.npz")):
        tiles.append((f"CAM {file.parts[-4]}", cam_tile(image, maps.read(file).cam)))
    for file in sorted(seed.glob(f"*/*/masks/{id}.png")):
        mask = pictures.read_mask(file)
        tiles.append((f"{file.parts[-4]} {file.parts[-3]}", overlays.mask_overlay(image, mask)))
    for file in sorted(seed.glob(f"*/*/*/seg_eval/pred/{id}.png")):
        mask, name = pictures.read_mask(file), f"{file.parts[-5]} {file.parts[-4]}"
        tiles.append((name, overlays.mask_overlay(image, mask)))
        if truth is not None:
            tiles.append(("errors", overlays.error_map(mask, truth)))
    return tiles


def detections(seed: Path) -> dict[str, dict[str, list[dict]]]:
    """Detected instances of one seed: experiment → image id → COCO records."""
    found: dict[str, dict[str, list[dict]]] = {}
    for file in sorted(seed.glob("*/*/wsis_eval/detections.json")):
        by_image = found[" ".join(file.parts[-4:-2])] = defaultdict(list)
        for record in read_json(file):
            by_image[record["image_id"]].append(record)
    return found


def _shown(job: Job, entry: Entry, split: str, encoded: bytes) -> Picture:
    colours = name_colours(job.data.classes)
    names = [job.data.classes[c] for c in entry.classes]
    legend = [(name, colours[name]) for name in names]
    if split == "val":
        legend += [(n, css_colour(c)) for n, c in overlays.ERROR_COLOURS.items()]
    caption = f"{entry.id}, {split}: {', '.join(names) or 'no object'}"
    return Picture(encoded, caption, tuple(legend))


def threshold_curves(results: Path) -> list[Chart]:
    """mIoU over the background threshold, one chart a CAM, one curve a seed."""
    found: dict[str, dict] = defaultdict(dict)
    marks: dict[str, list] = {}
    for file in sorted(results.glob("*/*/cam_eval/curve.csv")):
        seed, cam = file.relative_to(results).parts[:2]
        curve = pd.read_csv(file)
        if curve.empty:  # no ground truth
            continue
        found[cam][seed] = (curve["threshold"].tolist(), (100 * curve["miou"]).tolist())
        metrics = read_json(file.with_name("metrics.json"))
        marks[cam] = [(metrics["threshold"], "fixed"), (metrics["threshold_oracle"], "oracle")]
    for cam, curves in found.items():
        if len(curves) > 1:  # each seed has an oracle of its own
            marks[cam] = marks[cam][:1]
    return [
        Chart(plots.line_chart(curves, cam, "background threshold", "mIoU, %", marks[cam]))
        for cam, curves in found.items()
    ]


def training_curves(results: Path) -> list[Chart]:
    """Losses over steps of every trained network, one curve a loss and seed."""
    found: dict[str, dict] = defaultdict(dict)
    for file in sorted(results.rglob("history.csv")):
        seed, *path, stage = file.parent.relative_to(results).parts
        history = pd.read_csv(file)
        for loss in history.columns.drop(["step", "lr"]):
            curve = (history["step"].tolist(), history[loss].tolist())
            found[f"{stage}, {' / '.join(path)}"][f"{loss} {seed}"] = curve
    return [Chart(plots.line_chart(c, name, "step", "loss")) for name, c in found.items()]


def pipeline_graph(job: Job) -> str:
    """The stages of dvc.yaml that `run:` asks for, as a drawing."""
    blocks = params.read(job.workspace.params)
    stages = pipeline.asked(pipeline.load(job.workspace.pipeline), blocks)
    return plots.graph([(s.name, s.desc) for s in stages], pipeline.downward(stages, blocks))


def provenance(job: Job, results: Path) -> list:
    """Who ran what, where, when, how long, with how much memory."""
    files = [
        job.workspace.beside("prepare", job.axes) / "run.json",
        *sorted(results.rglob("run.json")),
    ]
    records = [(file, read_json(file)) for file in files if file.is_file()]
    rows = tuple(
        (
            "/".join(r[axis] for axis in AXES[1:] if axis in r) + f"/{r['stage']}",
            r["seconds"],
            r["peak_memory_mb"],
            r["engine"],
            (r.get("git_commit") or "")[:10] + ("+" if r.get("git_dirty") == "true" else ""),
            r["started"],
        )
        for _, r in records
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
