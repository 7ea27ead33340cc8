"""Predictions of a segmentation network, written as masks: for scoring, and for a submission."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import Crf
from fbr.nets.heads import FullSize, Segmenter
from fbr.nets.inference import Looks, Windowed, several
from fbr.params import Predict, Way
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import log
from fbr.stages.pool import streamed
from fbr.stages.refining import Seen, refine, refined
from fbr.train.processes import device

MANY = 1 << 24  # pixels: of fewer, a CRF is done before processes have started


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
    CRFs run in processes of their own, `threads` at once, while the network goes on.
    """
    torch.set_num_threads(threads)
    network, described = networks.load(model, device())
    network = applied(network, numbers)
    ways = {folder: numbers, **(also or {})}
    todo = [e for e in entries if not all(f.has(f"{e.id}.png") for f in ways)]
    log.info("%s: %d of %d images to do", name, len(todo), len(entries))

    def looked_at() -> Iterator[Seen]:
        """Write what is done with a look, hand on what the CRF is still to see."""
        for entry, image in read_ahead(todo, data.image):
            found = probabilities(network, image[None], list(ways.values()), described["bfloat16"])
            left = []
            for (into, way), scores in zip(ways.items(), found, strict=True):
                file = into / f"{entry.id}.png"
                if way.crf is None:
                    pictures.write_mask(file, likeliest(scores[0]))
                else:
                    left.append((file, scores[0].cpu().numpy(), Crf(**way.crf.model_dump())))
            yield Seen(image, left)

    crfs = [way.crf for way in ways.values() if way.crf]
    pixels = sum(entry.height * entry.width for entry in todo) * len(crfs)
    if pixels > MANY and all(crf.engine != "torch" for crf in crfs):
        done = streamed(refine, looked_at(), threads)
    else:
        done = map(refine, looked_at())
    for _ in counted(done, name, len(todo)):
        pass


def applied(network: Segmenter, numbers: Predict) -> nn.Module:
    """A network as its numbers apply it: itself, or in windows, which give probabilities."""
    if numbers.windows is None:
        return network
    whole = nn.Sequential(FullSize(network), nn.Softmax(1))
    return Windowed(whole, numbers.windows.side, numbers.windows.overlap)


def segment(
    network: nn.Module, images: np.ndarray, ways: Sequence[Way], bfloat16: bool
) -> list[np.ndarray]:
    """Predicted ids (N, H, W) uint8 of images (N, H, W, 3) uint8, in each way."""
    found = probabilities(network, images, ways, bfloat16)
    crfs = [way.crf and Crf(**way.crf.model_dump()) for way in ways]
    return [
        np.stack(
            [
                refined(s.cpu().numpy(), image, crf) if crf else likeliest(s)
                for s, image in zip(scores, images, strict=True)
            ]
        )
        for scores, crf in zip(found, crfs, strict=True)
    ]


def probabilities(
    network: nn.Module, images: np.ndarray, ways: Sequence[Way], bfloat16: bool
) -> list[torch.Tensor]:
    """(N, C, H, W) of images (N, H, W, 3) uint8, in each way, before any CRF.

    Logits are drawn before they become probabilities, as losses draw them.
    """
    looks = [Looks(way.scales, way.flip) for way in ways]
    drawing = {}
    if isinstance(network, Segmenter):
        drawing = {"positions": network.positions, "finish": partial(torch.softmax, dim=1)}
    found = several(network, images, looks, images.shape[1:3], device(), bfloat16, **drawing)
    if not all(scores.sum().isfinite() for scores in found):
        raise Refusal("the network answers with NaN: it is broken, train it again (seg_train)")
    return found


def likeliest(scores: torch.Tensor) -> np.ndarray:
    """Ids (H, W) uint8 from probabilities (C, H, W)."""
    # The first of the largest, like argmax, which takes three times as long on a CPU.
    return scores.max(0).indices.byte().cpu().numpy()
