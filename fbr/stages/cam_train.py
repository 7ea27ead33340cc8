"""cam_train: train a network whose class activation maps become the first masks."""

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
            f"params.yaml: {job.section}",
        )
        source = training.images(job, entries, lambda s, cut: {"label": labels[s["index"]]})
        inputs = [job.path("prepare", "index"), job.path("prepare", "images")]
        training.train(job, processes, network, network.head, source, inputs)
