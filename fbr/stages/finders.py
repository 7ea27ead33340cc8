"""What a network of each kind finds in photographs, and the file that holds it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fbr.datasets.prepared import Entry
from fbr.files import maps, pictures
from fbr.files.tables import write_json
from fbr.masks.instances import encode
from fbr.nets.inference import multi_scale
from fbr.params import CamInfer, SegEval, WsisEval
from fbr.show import overlays
from fbr.stages import networks
from fbr.stages.activation import strided
from fbr.stages.detecting import detect
from fbr.stages.overlays import cam_tile, instance_tile
from fbr.stages.segmenting import applied, segment
from fbr.train.processes import device

SPLIT = "any"  # no stage's: the numbers of an evaluation want one


class Finder:
    """A network with the numbers it is applied with, and the file that holds what it finds.

    alone: the numbers of a network that params.yaml does not know. merged: the file that all those
    of single images are put together in, if they are.
    """

    alone: Any
    file: str
    merged: str | None = None

    def __init__(self, network: nn.Module, described: dict, numbers: Any, shown: list[int]) -> None:
        """shown: classes that every image is told to show; nothing if the network is to tell."""
        self.network, self.numbers, self.shown = network, numbers, shown
        self.bfloat16 = described["bfloat16"]

    def look(self, entries: list[Entry], images: np.ndarray) -> list[Any]:
        """What is found in each of the images (N, H, W, 3) uint8."""
        raise NotImplementedError

    def write(self, file: Path, entry: Entry, found: Any) -> None:
        raise NotImplementedError

    def tile(self, image: np.ndarray, found: Any) -> np.ndarray:
        """The image (H, W, 3) with what was found laid over it."""
        raise NotImplementedError


class Masks(Finder):
    """Ids of every pixel as a palette PNG."""

    alone = SegEval(split=SPLIT, scales=[1.0], flip=False, crf=None)
    file = "masks/{id}.png"

    def __init__(self, network: nn.Module, described: dict, numbers: Any, shown: list[int]) -> None:
        super().__init__(applied(network, numbers), described, numbers, shown)

    def look(self, entries: list[Entry], images: np.ndarray) -> list[np.ndarray]:
        (masks,) = segment(self.network, images, [self.numbers], self.bfloat16)
        return list(masks)

    def write(self, file: Path, entry: Entry, found: np.ndarray) -> None:
        pictures.write_mask(file, found)

    def tile(self, image: np.ndarray, found: np.ndarray) -> np.ndarray:
        return overlays.mask_overlay(image, found)


class RunLengths(Masks):
    """The same as COCO records, one a class that is seen."""

    file, merged = ".parts/{id}.json", "masks.json"

    def write(self, file: Path, entry: Entry, found: np.ndarray) -> None:
        ids = np.unique(found[found > 0]).tolist()
        records = [
            {"image_id": entry.id, "category_id": id, "segmentation": encode(found == id)}
            for id in ids
        ]
        write_json(file, records)


class Activations(Finder):
    """Maps of the classes that are told or recognised, in the format of cam_infer."""

    alone = CamInfer(split=SPLIT, scales=[1.0], flip=False)
    file = "cams/{id}.npz"

    def look(self, entries: list[Entry], images: np.ndarray) -> list[maps.Maps]:
        mean = partial(
            multi_scale,
            images=images,
            scales=self.numbers.scales,
            flip=self.numbers.flip,
            device=device(),
            bfloat16=self.bfloat16,
        )
        where = None if self.numbers.cells else self.network.positions
        found = mean(self.network.maps, size=strided(entries[0]), positions=where)
        if self.shown:
            ids = [torch.tensor(self.shown, device=found.device)] * len(entries)
        else:
            scores = mean(
                lambda views: self.network.recognise(views)[:, :, None, None], size=(1, 1)
            )
            ids = [1 + torch.nonzero(row > 0).flatten() for row in scores.flatten(1)]
        rows = zip(entries, found, ids, strict=True)
        return [self._maps(entry, seen, keys) for entry, seen, keys in rows]

    def _maps(self, entry: Entry, found: Tensor, keys: Tensor) -> maps.Maps:
        cam = self.network.finish(found, keys).pow(self.numbers.power).cpu().numpy()
        return maps.Maps(keys.cpu().numpy(), cam, (entry.height, entry.width))

    def write(self, file: Path, entry: Entry, found: maps.Maps) -> None:
        maps.write(file, found)

    def tile(self, image: np.ndarray, found: maps.Maps) -> np.ndarray:
        return cam_tile(image, found.cam)


class Detections(Finder):
    """Instances as COCO records with scores."""

    alone = WsisEval(split=SPLIT, score=0.05, detections=100)
    file, merged = ".parts/{id}.json", "detections.json"

    def look(self, entries: list[Entry], images: np.ndarray) -> list[list[dict]]:
        return [detect(self.network, e.id, i) for e, i in zip(entries, images, strict=True)]

    def write(self, file: Path, entry: Entry, found: list[dict]) -> None:
        write_json(file, found)

    def tile(self, image: np.ndarray, found: list[dict]) -> np.ndarray:
        return instance_tile(image, found)


# Stage that trained the network → format → what is written; the first format is the default.
FINDERS: dict[str, dict[str, type[Finder]]] = {
    "seg_train": {"png": Masks, "rle": RunLengths},
    "cam_train": {"npz": Activations},
    "wsis_train": {"rle": Detections},
}
EVALUATION = {"seg_train": "seg_eval", "cam_train": "cam_infer", "wsis_train": "wsis_eval"}


def load(model: Path, kind: type[Finder], numbers: Any, shown: list[int]) -> Finder:
    """The network, ready to look at images."""
    limits = {}
    if isinstance(numbers, WsisEval):
        limits = {"score": numbers.score, "detections": numbers.detections}
    network, described = networks.load(model, device(), **limits)
    return kind(network, described, numbers, shown)
