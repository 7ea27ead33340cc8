"""Detections of an instance network as COCO records: for scoring, and of any photograph."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fbr.masks.instances import encode
from fbr.nets.inputs import normalise
from fbr.train.processes import device


@torch.inference_mode()
def detect(network: nn.Module, id: str, image: np.ndarray) -> list[dict]:
    """COCO records of what an image (H, W, 3) uint8 shows, each with its score."""
    height, width = image.shape[:2]
    # What would be shrunk to nothing on its short side gets a margin there.
    least = max(height, width) // network.transform.max_size + 1
    margin = (0, max(0, least - width), 0, max(0, least - height))
    seen = F.pad(normalise(torch.from_numpy(image)[None].to(device()))[0], margin)
    found = network([seen])[0]
    inside = (found["masks"][:, 0, :height, :width] > 0.5).cpu().numpy()
    rows = zip(found["labels"].tolist(), inside, found["scores"].tolist(), strict=True)
    return [
        {"image_id": id, "category_id": label, "segmentation": encode(mask), "score": score}
        for label, mask, score in rows
    ]
