"""What stages take in time and on disk: by what ran here, or else by workflow/costs.yaml."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os.path import normpath
from statistics import fmean
from typing import Any

from pydantic import Field

from fbr import params, pipeline
from fbr.datasets.prepared import Prepared
from fbr.errors import Refusal, nearest
from fbr.files.tables import read_json
from fbr.params import Count, Name, NotNegative, Positive, Strict, Submit, Training
from fbr.stages.job import Job
from fbr.workspace import Workspace, axes_of

TRAINED_BY = {
    "cam_infer": "cam_train",
    "amn_infer": "amn_train",
    "irn_infer": "irn_train",
    "psa_infer": "psa_train",
    "seg_eval": "seg_train",
    "submit": "seg_train",
    "wsis_eval": "wsis_train",
}
# Where nothing was recorded of a stage, one that does the same.
ALIKE = {"amn_train": "cam_train", "amn_infer": "cam_infer"}

SHORT, MANY = 10, 20  # seconds that are mostly start-up, and times as much work


class Record(Strict):
    """What one run of a stage took: seconds for so many megapixels of work, on which machine."""

    stage: Name
    network: str | None = None  # name/stride
    gpu: str | None = None
    seconds: Positive
    megapixels: Positive
    machine: str

    @property
    def where(self) -> str:
        """What the time depends on most."""
        return self.gpu or self.machine


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
        paths = [path for target in targets for path in known.get(target, [normpath(target)])]
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
        if isinstance(numbers, Submit):  # unless told otherwise as `seg_eval` does, in one way
            own = self.params.of("seg_eval", axes)
            numbers = numbers.way or own.model_copy(update={"also": {}})
        return seen * _looks(numbers)

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
        also = getattr(numbers, "also", None)  # a split, or, of seg_eval, more ways of testing
        names = [numbers.split, also] if isinstance(also, str) else [numbers.split]
        return pixels * sum(splits.get(name, 0) for name in names) / 1e6

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
        # What is mostly start-up says little of far more work.
        told = [
            record
            for record in self.recorded
            if record.seconds >= SHORT or (work or 0) <= MANY * record.megapixels
        ]
        for name in (stage, ALIKE.get(stage)):
            for records in (told, self.costs.records, self.recorded):
                found = [r for r in records if (r.stage, r.network) == (name, network)]
                found = [r for r in found if bool(r.gpu) == gpu]
                if found and work is not None:
                    where = found[-1].where
                    found = [r for r in found if r.where == where]
                    rate = sum(r.seconds for r in found) / sum(r.megapixels for r in found)
                    return work * rate, where
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
            work = run.get("asked") == job.asked and self.work(stage, axes)
        except Refusal:  # its block is gone from params.yaml
            return None
        # Of a run that went on after a kill only the last part's time is known.
        if not work or not run["seconds"] or run.get("continued"):
            return None
        # A stage that wants no GPU may have run where there is one.
        wants = next(s for s in self.stages if s.name == stage).meta.get("gpu")
        _, _, gpu = run["machine"].partition(" × ")
        return Record(
            stage=stage,
            network=self._network(stage, axes),
            gpu=gpu if wants and gpu else None,
            seconds=run["seconds"],
            megapixels=work,
            machine=run["machine"],
        )

    def _bytes(self, stage: str, axes: dict[str, str], network: str | None) -> float | None:
        if stage.endswith("_train"):
            megabytes = self.costs.megabytes.get(network.rpartition("/")[0])
            return None if megabytes is None else 1e6 * megabytes
        pixels = self.costs.bytes_a_pixel.get(stage)
        seen = self._megapixels(stage, axes) if pixels else None
        return None if seen is None else 1e6 * seen * pixels


def _looks(numbers: Any) -> float:
    """How often a stage sees each pixel of an image, over scales and mirrored ones."""
    also = getattr(numbers, "also", None)
    ways = [numbers, *(also.values() if isinstance(also, dict) else [])]
    looks = {
        (scale, mirrored)
        for way in ways
        for scale in getattr(way, "scales", [1.0])
        for mirrored in range(1 + getattr(way, "flip", False))
    }
    return sum(scale**2 for scale, _ in looks)
