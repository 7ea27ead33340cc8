"""amn_train: train a CAM network on image labels and on the confident seeds of another CAM."""

from fbr.datasets.loader import Sample
from fbr.datasets.prepared import VOID, Entry
from fbr.datasets.transforms import NEAREST, Geometry
from fbr.stages import cam_training, training
from fbr.stages.job import Job
from fbr.train.processes import joined


def run(job: Job) -> None:
    """Train the method of the recipe; seeds are unsure where the crop sticks out of the image."""
    entries = job.data.split(job.numbers.split)
    seeds = job.path("crf_refine", "seeds", cam="plain", mask="amn_seeds")
    with joined(job.threads) as processes:
        network = cam_training.network(job, seeded=True)
        draw, more = cam_training.beside(job, entries, network)

        def with_seeds(sample: Sample, cut: Geometry) -> Sample:
            return draw(sample, cut) | {"seeds": cut.apply(sample["seeds"], NEAREST, VOID)}

        def and_seeds(entry: Entry) -> Sample:
            return more(entry) | {"seeds": job.data.ids(seeds / f"{entry.id}.png", entry)}

        source = training.images(job, entries, with_seeds, and_seeds)
        inputs = [job.path("prepare", "index"), job.path("prepare", "images"), seeds]
        training.train(job, processes, network, network.head, source, inputs)
