"""`fbr plan`: how long, and how much disk and memory, a target will need, and how that is known."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import yaml
from pydantic import Field

from fbr import params, pipeline
from fbr.datasets.prepared import Prepared
from fbr.errors import Refusal, nearest
from fbr.files.tables import read_json
from fbr.params import Count, Name, NotNegative, Positive, Strict, Training
from fbr.stages.job import Job
from fbr.workspace import Workspace, axes_of

MISSING = "–"
TRAINED_BY = {
    "cam_infer": "cam_train",
    "amn_infer": "amn_train",
    "irn_infer": "irn_train",
    "seg_eval": "seg_train",
    "submit": "seg_train",
    "wsis_eval": "wsis_train",
}
# Where nothing was recorded of a stage, one that does the same.
ALIKE = {"amn_train": "cam_train", "amn_infer": "cam_infer"}


def main(argv: list[str], workspace: Workspace) -> int:
    """Print what targets will take, stage by stage, beyond what is there; runs nothing."""
    parser = argparse.ArgumentParser(prog="fbr plan", description=main.__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for Snakemake: seg_voc")
    parser.add_argument(
        "--record", action="store_true", help="print what ran here, for workflow/costs.yaml"
    )
    asked = parser.parse_args(argv)
    if bool(asked.targets) == asked.record:
        parser.error("expected targets, as in `fbr plan seg_voc`, or --record")
    here = Bill(workspace)
    if asked.record:
        rows = [record.model_dump(exclude_none=True) for record in here.recorded]
        layout = {"sort_keys": False, "default_flow_style": None, "width": 1000}
        print(yaml.safe_dump({"records": rows}, **layout), end="")
    else:
        print("\n".join(told(list(here.items(asked.targets)))))
    return 0


class Record(Strict):
    """What one run of a stage took: seconds for so many megapixels of work, on which machine."""

    stage: Name
    network: str | None = None  # name/stride
    gpu: str | None = None
    seconds: Positive
    megapixels: Positive
    machine: str


class Source(Strict):
    """What a dataset usually holds."""

    pixels: Count
    splits: dict[Name, Count]


class Costs(Strict):
    """The whole of workflow/costs.yaml."""

    records: list[Record]
    bytes_a_pixel: dict[Name, Positive] = Field({})
    megabytes: dict[str, NotNegative] = Field({})
    sources: dict[Name, Source] = Field({})


@dataclass(frozen=True)
class Item:
    """One run of one stage, in seconds and bytes as far as there are records."""

    stage: pipeline.Stage
    done: bool
    seconds: float | None  # on a GPU for a stage that wants one
    on: str | None  # the machine that those are from
    without: float | None  # on a CPU, for a stage that wants a GPU
    without_on: str | None
    bytes: float | None

    @property
    def gpu(self) -> bool:
        return bool(self.stage.meta.get("gpu"))

    @property
    def at_most(self) -> float:
        """What is known, or the limit in dvc.yaml; a GPU takes no longer than a CPU."""
        limit = 60 * self.stage.meta.get("minutes", 60)
        return self.seconds or min(limit, self.without or limit)


class Bill:
    """What stages of this workspace take."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.blocks = params.read(workspace.params)
        self.params = params.load(workspace.params)
        self.stages = pipeline.load(workspace.pipeline)
        self.images: dict[str, tuple[float, Mapping[str, int]] | None] = {}

    @cached_property
    def costs(self) -> Costs:
        file = self.workspace.costs
        return params.check(params.read(file), Costs, file.name)

    def items(self, targets: list[str]) -> Iterator[Item]:
        """Every run behind some targets, each once, in the pipeline's order."""
        known = pipeline.targets(self.stages, self.blocks)
        paths = [path for target in targets for path in known.get(target, [target])]
        for path in paths:
            if "/" not in path:
                raise Refusal(
                    f"fbr plan: found '{path}', expected a path or one of {', '.join(known)}."
                    f"{nearest(path, known)}"
                )
        pipeline.check(paths, self.stages, self.blocks)
        # A report reads whatever is there, and takes a minute.
        runs = {
            (stage.name, *axes.values()): (stage, axes)
            for path in paths
            if not path.startswith("reports/")
            for stage, axes in pipeline.upstream(path, self.stages, self.blocks)
        }
        order = [stage.name for stage in self.stages]
        for stage, axes in sorted(runs.values(), key=lambda run: order.index(run[0].name)):
            yield self._item(stage, axes)

    def _item(self, stage: pipeline.Stage, axes: dict[str, str]) -> Item:
        outputs = self.workspace.outputs(stage.name, axes).values()
        work, network = self.work(stage.name, axes), self._network(stage.name, axes)
        gpu = bool(stage.meta.get("gpu"))
        seconds, on = self._scaled(work, stage.name, network, gpu)
        slow = self._scaled(work, stage.name, network, False) if gpu else (None, None)
        return Item(
            stage=stage,
            done=all(path.exists() for path in outputs),
            seconds=seconds,
            on=on,
            without=slow[0],
            without_on=slow[1],
            bytes=self._bytes(stage.name, axes, network),
        )

    def work(self, stage: str, axes: dict[str, str]) -> float | None:
        """Megapixels that a stage works through; None where the images are not known yet."""
        numbers = self.params.of(stage, axes)
        if isinstance(numbers, Training):
            return numbers.steps * numbers.batch * numbers.crop**2 / 1e6
        seen = self._megapixels(stage, axes)
        if seen is None:
            return None
        scales = sum(scale**2 for scale in getattr(numbers, "scales", [1.0]))
        return seen * scales * (2 if getattr(numbers, "flip", False) else 1)

    def _megapixels(self, stage: str, axes: dict[str, str]) -> float | None:
        """Those of the images that a stage reads."""
        known = self._held(axes["data"])
        if known is None:
            return None
        pixels, splits = known
        if stage == "prepare":
            return pixels * sum(splits.values()) / 1e6
        numbers = self.params.of(stage, axes)
        if not hasattr(numbers, "split"):  # whatever has maps
            numbers = self.params.cam[axes["cam"]][axes["data"]].infer
        names = [numbers.split, getattr(numbers, "also", None)]
        return pixels * sum(splits.get(name, 0) for name in names if name) / 1e6

    def _held(self, data: str) -> tuple[float, Mapping[str, int]] | None:
        """Mean pixels of an image, and images of each split: counted, drawn up, or as published."""
        if data not in self.images:
            self.images[data] = self._counted(data)
        return self.images[data]

    def _counted(self, data: str) -> tuple[float, Mapping[str, int]] | None:
        index = self.workspace.path("prepare", "index", {"data": data})
        if index.is_file():
            entries = Prepared(index.parent).entries
            splits = [split for entry in entries for split in entry.splits]
            pixels = fmean(entry.width * entry.height for entry in entries)
            return pixels, {split: splits.count(split) for split in set(splits)}
        source = self.params.data[data].prepare
        if source.source == "toy":
            splits = {"train": source.train, "val": source.val, "test": source.test}
            return source.world.size**2, splits
        usual = self.costs.sources.get(source.source)
        return usual and (usual.pixels, usual.splits)

    def _network(self, stage: str, axes: dict[str, str]) -> str | None:
        trained = TRAINED_BY.get(stage, stage)
        if not trained.endswith("_train"):
            return None
        network = self.params.of(trained, axes).network
        return f"{network.name}/{network.stride}"

    def _scaled(
        self, work: float | None, stage: str, network: str | None, gpu: bool
    ) -> tuple[float | None, str | None]:
        """Seconds for so much work, and on what: by what ran here, or else what is on file."""
        for name in (stage, ALIKE.get(stage)):
            for records in (self.recorded, self.costs.records):
                found = [r for r in records if (r.stage, r.network) == (name, network)]
                found = [r for r in found if bool(r.gpu) == gpu]
                if found and work is not None:
                    rate = sum(r.seconds for r in found) / sum(r.megapixels for r in found)
                    return work * rate, found[-1].gpu or found[-1].machine
        return None, None

    @cached_property
    def recorded(self) -> list[Record]:
        """What ran here with the numbers of params.yaml as they are."""
        files = sorted((self.workspace.root / "results").rglob("run.json"))
        files += sorted((self.workspace.locks / "prepare").glob("*/run.json"))
        found = [self._record(read_json(file)) for file in files]
        return [record for record in found if record]

    def _record(self, run: dict[str, Any]) -> Record | None:
        stage = run["stage"]
        axes = {axis: run[axis] for axis in axes_of(stage)}
        try:
            job = Job(stage, axes, self.params, self.workspace, threads=1)
            work = run["asked"] == job.asked and self.work(stage, axes)
        except Refusal:  # its block is gone from params.yaml
            return None
        if not work or not run["seconds"]:
            return None
        machine, times, gpu = run["machine"].partition(" × ")
        return Record(
            stage=stage,
            network=self._network(stage, axes),
            gpu=gpu if times else None,
            seconds=run["seconds"],
            megapixels=work,
            machine=machine,
        )

    def _bytes(self, stage: str, axes: dict[str, str], network: str | None) -> float | None:
        if stage.endswith("_train"):
            megabytes = self.costs.megabytes.get(network.rpartition("/")[0])
            return None if megabytes is None else 1e6 * megabytes
        pixels = self.costs.bytes_a_pixel.get(stage)
        seen = self._megapixels(stage, axes) if pixels else None
        return None if seen is None else 1e6 * seen * pixels


COLUMNS = ("stage", "runs", "to do", "GPU", "CPU", "without a GPU", "disk", "memory", "known from")


def told(items: list[Item]) -> list[str]:
    """The plan as lines: a stage each, then the sums, then what they rest on."""
    left = [item for item in items if not item.done]
    rows = [COLUMNS]
    for name in dict.fromkeys(item.stage.name for item in items):
        rows.append(_row(name, [item for item in items if item.stage.name == name]))
    rows.append((*_row("together", items)[:-1], ""))
    return [*_aligned(rows), "", *_notes(left)]


def _row(name: str, items: list[Item]) -> tuple[str, ...]:
    left = [item for item in items if not item.done]
    gpu, cpu = [i for i in left if i.gpu], [i for i in left if not i.gpu]
    known = [item.bytes for item in left if item.bytes is not None]
    memory = max((item.stage.meta.get("mem_gb", 4) for item in left), default=None)
    return (
        name,
        str(len(items)),
        str(len(left)),
        _bounded([item.at_most for item in gpu], "≤ " if _limited(gpu) else ""),
        _bounded([item.at_most for item in cpu], "≤ " if _limited(cpu) else ""),
        _without(gpu),
        size(sum(known)) if known else MISSING,
        MISSING if memory is None else f"{memory} GB",
        ", ".join(dict.fromkeys(item.on or "limit" for item in left)),
    )


def _limited(items: list[Item]) -> bool:
    return any(item.seconds is None for item in items)


def _without(items: list[Item]) -> str:
    """What GPU stages take on a CPU: at least that of those that are known."""
    known = [item.without for item in items if item.without is not None]
    return _bounded(known, "≥ " if len(known) < len(items) else "")


def _bounded(seconds: list[float], bound: str) -> str:
    return f"{bound}{duration(sum(seconds))}" if seconds else MISSING


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:,.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _notes(left: list[Item]) -> list[str]:
    said = [
        "Recorded seconds, scaled by steps, images and pixels: estimates, FBR's share left out."
    ]
    if limited := dict.fromkeys(item.stage.name for item in left if item.seconds is None):
        said.append(
            "≤ is no estimate but a limit, dvc.yaml's or a CPU's, for want of a record: "
            f"{', '.join(limited)}."
        )
    if slow := dict.fromkeys(item.without_on for item in left if item.without_on):
        said.append(f"Without a GPU means on {', '.join(slow)}.")
    if unknown := dict.fromkeys(item.stage.name for item in left if item.bytes is None):
        said.append(f"Not in the disk's sum: {', '.join(unknown)}.")
    said.append("Memory is what dvc.yaml reserves for one run, the computer's and not the GPU's.")
    return said


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns for a terminal: the first and the last at the left, numbers at the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
