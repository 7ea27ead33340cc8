"""cam_train: train a network whose class activation maps become the first masks."""

from fbr.stages import cam_training, training
from fbr.stages.job import Job
from fbr.train.processes import joined


def run(job: Job) -> None:
    """Train the CAM method of the recipe on image labels, and on saliency if it asks for it."""
    entries = job.data.split(job.numbers.split)
    with joined(job.threads) as processes:
        network = cam_training.network(job, seeded=False)
        source = training.images(job, entries, *cam_training.beside(job, entries, network))
        inputs = [job.path("prepare", "index"), job.path("prepare", "images")]
        inputs += [job.path("prepare", "saliency")] if network.saliency else []
        training.train(job, processes, network, network.head, source, inputs)
