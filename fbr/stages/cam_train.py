"""cam_train: train a network whose class activation maps become the first masks."""

from fbr.datasets.loader import Sample
from fbr.datasets.prepared import Entry
from fbr.datasets.transforms import NEAREST, Geometry
from fbr.stages import training
from fbr.stages.job import Job
from fbr.stages.networks import cam_method
from fbr.train.processes import joined


def run(job: Job) -> None:
    """Train the CAM method of the recipe on image labels alone."""
    numbers = job.numbers
    entries = job.data.split(numbers.split)
    labels = job.data.labels(entries)
    with joined(job.threads) as processes:
        network = cam_method(
            numbers.method,
            training.backbone(job, numbers.network),
            job.data.foreground,
            numbers.options,
            numbers.fbr,
            f"params.yaml: {job.section}",
        )
        # Companion grounds are looked at, never learnt from: FBR counts its NROIs on them.
        watched = numbers.fbr is not None and any(job.data.has("companions", e) for e in entries)

        def more(entry: Entry) -> Sample:
            return {"companions": job.data.companions(entry)} if watched else {}

        def draw(sample: Sample, cut: Geometry) -> Sample:
            drawn = {"label": labels[sample["index"]]}
            if watched:
                drawn["companions"] = cut.apply(sample["companions"], NEAREST, 0)
            return drawn

        source = training.images(job, entries, draw, more)
        inputs = [job.path("prepare", "index"), job.path("prepare", "images")]
        training.train(job, processes, network, network.head, source, inputs)
