"""Predictions of a segmentation network, written as masks: for scoring, and for a submission."""

from pathlib import Path

import torch
from torch import nn

from fbr.datasets.prepared import Entry, Prepared
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import Crf, dense_crf, unary_from_probabilities
from fbr.nets.inference import multi_scale
from fbr.params import SegEval, Submit
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import log
from fbr.train.processes import device


def predict(
    name: str,
    model: Path,
    data: Prepared,
    entries: list[Entry],
    folder: PartialFolder,
    numbers: SegEval | Submit,
    threads: int,
) -> None:
    """Write the predicted ids of every image that `folder` does not hold yet."""
    torch.set_num_threads(threads)
    here = device()
    network, described = networks.load(model, here)
    crf = numbers.crf and Crf(**numbers.crf.model_dump())
    todo = [e for e in entries if not folder.has(f"{e.id}.png")]
    log.info("%s: %d of %d images to do", name, len(todo), len(entries))
    for entry, image in counted(read_ahead(todo, data.image), name, len(todo)):
        size = (entry.height, entry.width)
        scores = multi_scale(
            nn.Sequential(network, nn.Softmax(1)),
            image,
            numbers.scales,
            numbers.flip,
            size,
            here,
            described["bfloat16"],
        )
        if crf:
            probabilities = dense_crf(image, unary_from_probabilities(scores.cpu().numpy()), crf)
            mask = probabilities.argmax(0).astype("uint8")
        else:
            mask = scores.argmax(0).byte().cpu().numpy()
        pictures.write_mask(folder / f"{entry.id}.png", mask)
