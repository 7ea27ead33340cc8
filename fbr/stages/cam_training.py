"""What cam_train and amn_train have in common: the method, and what lies beside an image."""

from collections.abc import Callable

from fbr.cam import CAM
from fbr.cam.method import Method, Seeded
from fbr.datasets.loader import Sample
from fbr.datasets.prepared import Entry
from fbr.datasets.transforms import NEAREST, Geometry
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


def labelled(
    job: Job, entries: list[Entry]
) -> tuple[Callable[[Sample, Geometry], Sample], Callable[[Entry], Sample]]:
    """The `draw` and `more` of `training.images` for image labels and what is watched."""
    labels = job.data.labels(entries)
    # Companion grounds are looked at, never learnt from: FBR counts its NROIs on them.
    carries = job.numbers.fbr is not None
    watched = carries and any(job.data.has("companions", e) for e in entries)

    def draw(sample: Sample, cut: Geometry) -> Sample:
        drawn = {"label": labels[sample["index"]]}
        if watched:
            drawn["companions"] = cut.apply(sample["companions"], NEAREST, 0)
        return drawn

    def more(entry: Entry) -> Sample:
        return {"companions": job.data.companions(entry)} if watched else {}

    return draw, more
