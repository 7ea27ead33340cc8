"""Predictions of a segmentation network, written as masks: for scoring, and for a submission."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fbr.datasets.prepared import Entry, Prepared
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import Crf, dense_crf, unary_from_probabilities
from fbr.nets.inference import Looks, Padded, Windowed, several
from fbr.params import Predict, Way
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
    numbers: Predict,
    threads: int,
    also: Mapping[PartialFolder, Way] | None = None,
) -> None:
    """Write the predicted ids of every image that `folder` does not hold yet.

    also: more folders, each with its own way of testing; an image missing in one is done for all.
    """
    torch.set_num_threads(threads)
    here = device()
    network, described = networks.load(model, here)
    network = _applied(nn.Sequential(network, nn.Softmax(1)), numbers, described)
    ways = {folder: numbers, **(also or {})}
    looks = [Looks(way.scales, way.flip) for way in ways.values()]
    crfs = [way.crf and Crf(**way.crf.model_dump()) for way in ways.values()]
    todo = [e for e in entries if not all(f.has(f"{e.id}.png") for f in ways)]
    log.info("%s: %d of %d images to do", name, len(todo), len(entries))
    for entry, image in counted(read_ahead(todo, data.image), name, len(todo)):
        size = (entry.height, entry.width)
        found = several(network, image, looks, size, here, described["bfloat16"])
        for into, scores, crf in zip(ways, found, crfs, strict=True):
            pictures.write_mask(into / f"{entry.id}.png", _mask(scores, image, crf))


def _applied(network: nn.Module, numbers: Predict, described: dict) -> nn.Module:
    if numbers.pad:
        network = Padded(network, described["network"]["stride"])
    if numbers.windows:
        network = Windowed(network, numbers.windows.side, numbers.windows.overlap)
    return network


def _mask(scores: torch.Tensor, image: np.ndarray, crf: Crf | None) -> np.ndarray:
    """Ids (H, W) uint8 from probabilities (C, H, W)."""
    if crf is None:
        return scores.argmax(0).byte().cpu().numpy()
    unary = unary_from_probabilities(scores.cpu().numpy())
    return dense_crf(image, unary, crf).argmax(0).astype("uint8")
