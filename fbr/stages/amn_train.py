"""amn_train: train a CAM network on image labels and on the confident seeds of another CAM."""

from functools import partial

import numpy as np
import torch

from fbr.cam.method import Seeded
from fbr.datasets.loader import Sample
from fbr.datasets.prepared import VOID, Entry
from fbr.datasets.transforms import NEAREST, Geometry
from fbr.errors import Refusal
from fbr.metrics.semantic import Confusion
from fbr.nets.inference import multi_scale
from fbr.stages import cam_training, training
from fbr.stages.images import read_ahead
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
        judge = None
        if job.numbers.select is not None:
            judge = partial(score, job, network, processes.device, known(job))
            inputs.append(job.path("prepare", "masks"))
        training.train(job, processes, network, network.head, source, inputs, judge=judge)


def known(job: Job) -> list[Entry]:
    """The images whose ground truth chooses the epoch."""
    split = job.numbers.select
    found = [e for e in job.data.split(split) if job.data.has("masks", e)]
    if not found:
        raise Refusal(
            f"params.yaml: {job.section}.select: no image of split '{split}' has ground truth; "
            "without this key the last epoch is kept"
        )
    if job.numbers.fbr is not None and job.numbers.fbr.maps != "cam":
        raise Refusal(
            f"params.yaml: {job.section}.select: found fbr.maps '{job.numbers.fbr.maps}', expected "
            "'cam': epochs are told apart by the network's own background; leave one of them out"
        )
    return found


@torch.inference_mode()
def score(job: Job, network: Seeded, device: torch.device, entries: list[Entry]) -> float:
    """mIoU of the likeliest of the background and an image's classes, at one scale."""
    network.eval()
    confusion = Confusion(len(job.data.classes))
    for entry, image in read_ahead(entries, job.data.image):
        label = torch.zeros(1, job.data.foreground, device=device)
        label[0, [key - 1 for key in entry.classes]] = 1
        (logits,) = multi_scale(
            partial(network.maps, label=label),
            image[None],
            scales=[1.0],
            flip=False,
            size=(entry.height, entry.width),
            device=device,
            bfloat16=job.numbers.bfloat16,
            positions=network.positions,
        )
        keys = np.array([0, *entry.classes], np.uint8)
        confusion.update(keys[logits[keys.tolist()].argmax(0).cpu()], job.data.mask(entry))
    return confusion.miou()
