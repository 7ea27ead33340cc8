"""wsis_train: train an instance segmentation network on pseudo instances."""

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import masks_to_boxes

from fbr.datasets.loader import Sample
from fbr.datasets.prepared import Entry
from fbr.datasets.transforms import NEAREST
from fbr.errors import Refusal
from fbr.files.tables import read_json
from fbr.masks.instances import decode
from fbr.stages import training
from fbr.stages.job import Job
from fbr.stages.networks import detector
from fbr.train.processes import joined

SMALLEST = 1  # pixels: thinner boxes have no area and break the proposal network
MOST = 254  # instances of an image, as the map is 8-bit


class DetectionTask(nn.Module):
    """Torchvision's detector, fed from one map of instance numbers an image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, 3, H, W), instances (B, H, W) 0 none, classes (B, MOST) by number − 1."""
        pairs = zip(batch["instances"], batch["classes"], strict=True)
        return self.network(list(batch["image"]), [target(m, c) for m, c in pairs])


def target(instances: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """What torchvision wants to know of one image: boxes, labels and masks of its instances."""
    numbers = instances.unique()
    numbers = numbers[numbers > 0].long()
    masks = instances == numbers[:, None, None]
    boxes = masks_to_boxes(masks) if len(numbers) else torch.zeros(0, 4, device=masks.device)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= SMALLEST).all(1)
    labels = classes[numbers - 1].long()
    return {"boxes": boxes[kept], "labels": labels[kept], "masks": masks[kept].byte()}


def run(job: Job) -> None:
    """Train on the instances of IRN; images without one teach the background."""
    numbers = job.numbers
    entries = job.data.split(numbers.split)
    file = job.path("irn_infer", "instances.json", mask="irn")
    records: dict[str, list[dict]] = {}
    for record in read_json(file):
        records.setdefault(record["image_id"], []).append(record)

    def read(entry: Entry) -> Sample:
        instances = np.zeros((entry.height, entry.width), np.uint8)
        classes = np.zeros(MOST, np.uint8)
        for number, record in enumerate(records.get(entry.id, [])[:MOST], start=1):
            inside, label = decode(record["segmentation"]), record["category_id"]
            if inside.shape != instances.shape or not 1 <= label <= job.data.foreground:
                raise Refusal(
                    f"{file}: an instance of id '{entry.id}' has {inside.shape[1]}x"
                    f"{inside.shape[0]} pixels and class {label}, expected {entry.width}x"
                    f"{entry.height} and 1 to {job.data.foreground}; run irn_infer again"
                )
            instances[inside], classes[number - 1] = number, label
        return {"instances": instances, "classes": classes}

    with joined(job.threads) as processes:
        network = detector(training.backbone(job, numbers.network), numbers, len(job.data.classes))
        source = training.images(
            job,
            entries,
            lambda s, cut: {
                "instances": cut.apply(s["instances"], NEAREST, 0),
                "classes": s["classes"],
            },
            read,
        )
        heads = [network.rpn, network.roi_heads, network.backbone.pyramid]
        inputs = [job.path("prepare", "index"), file, job.path("cam_train", "model")]
        training.train(job, processes, DetectionTask(network), heads, source, inputs, network)
