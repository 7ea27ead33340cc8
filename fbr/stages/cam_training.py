"""What cam_train and amn_train have in common: the method, and what lies beside an image."""

from collections.abc import Callable

from fbr.cam import CAM
from fbr.cam.method import Method, Seeded
from fbr.datasets.loader import Sample
from fbr.datasets.prepared import Entry, Prepared
from fbr.datasets.transforms import NEAREST, SMOOTH, Geometry
from fbr.errors import Refusal, chosen
from fbr.stages import training
from fbr.stages.job import Job
from fbr.stages.networks import cam_method


def network(job: Job, seeded: bool) -> Method:
    """The method of the recipe on its backbone; `seeded`: whether the stage hands out seeds."""
    numbers = job.numbers
    where = f"params.yaml: {job.section}"
    if issubclass(chosen(CAM, numbers.method, f"{where}.method"), Seeded) != seeded:
        sources, block = ("labels alone", "cam_train") if seeded else ("seeds, too", "amn_train")
        raise Refusal(
            f"{where}.method: '{numbers.method}' learns from {sources}; name its block {block}"
        )
    return cam_method(
        numbers.method,
        training.backbone(job, numbers.network),
        job.data.foreground,
        numbers.options,
        numbers.fbr,
        where,
    )


def beside(
    job: Job, entries: list[Entry], method: Method
) -> tuple[Callable[[Sample, Geometry], Sample], Callable[[Entry], Sample]]:
    """The `draw` and `more` of `training.images`: image labels, saliency, and what is watched."""
    labels = job.data.labels(entries)
    read = {}
    if method.saliency:
        _check_saliency(job.data, entries, job.numbers.method)
        read["saliency"] = job.data.saliency, SMOOTH[job.numbers.resample]
    # Companion grounds are looked at, never learnt from: FBR counts its NROIs on them.
    carries = job.numbers.fbr is not None
    if carries and any(job.data.has("companions", e) for e in entries):
        read["companions"] = job.data.companions, NEAREST

    def draw(sample: Sample, cut: Geometry) -> Sample:
        drawn = {kind: cut.apply(sample[kind], how, 0) for kind, (_, how) in read.items()}
        return {"label": labels[sample["index"]]} | drawn

    def more(entry: Entry) -> Sample:
        return {kind: of(entry) for kind, (of, _) in read.items()}

    return draw, more


def _check_saliency(data: Prepared, entries: list[Entry], method: str) -> None:
    for entry in entries:
        if not data.has("saliency", entry):
            raise Refusal(
                f"{data.folder / 'saliency'}: found none of id '{entry.id}', expected a grey map "
                f"<id>.png of every image that {method} trains on; add them and run prepare again, "
                "or choose a method without saliency"
            )
