"""Detections of an instance network as COCO records: for scoring, and of any photograph."""

import numpy as np
import torch
from torch import nn

from fbr.masks.instances import encode
from fbr.nets.inputs import normalise
from fbr.train.processes import device


@torch.inference_mode()
def detect(network: nn.Module, id: str, image: np.ndarray) -> list[dict]:
    """COCO records of what an image (H, W, 3) uint8 shows, each with its score."""
    found = network([normalise(torch.from_numpy(image)[None].to(device()))[0]])[0]
    inside = (found["masks"][:, 0] > 0.5).cpu().numpy()
    rows = zip(found["labels"].tolist(), inside, found["scores"].tolist(), strict=True)
    return [
        {"image_id": id, "category_id": label, "segmentation": encode(mask), "score": score}
        for label, mask, score in rows
    ]
