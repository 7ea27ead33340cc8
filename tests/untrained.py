"""Networks that have learnt nothing, written as a training stage writes them: quick to have."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fbr.files import weights
from fbr.files.tables import write_json
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.stages import networks
from tests.reference import numbers

CLASSES = ["background", "cat", "dog"]
SMALL = {"name": "small", "stride": 8, "weights": "none", "freeze": 0}
FBR = numbers.fbr(maps="product", one_space=True, weight={"l_sim": 0.0})  # which reads maps anew
INSTANCES = {"head": "maskrcnn", "anchors": [16, 32], "proposals": 8, "width": 16, "crop": 64}


def description(stage: str, **more) -> dict:
    return {"stage": stage, "classes": CLASSES, "network": SMALL, "bfloat16": False} | more


def segmenter(backbone: nn.Module) -> nn.Module:
    return Segmenter(backbone, "deeplabv2", len(CLASSES), [1, 2])


BUILT = {
    "seg_train": (segmenter, description("seg_train", head="deeplabv2", rates=[1, 2])),
    "cam_train": (
        lambda backbone: networks.cam_method("plain", backbone, 2, {}),
        description("cam_train", method="plain", options={}, fbr=None),
    ),
    "cam_train, FBR": (
        lambda backbone: networks.cam_method("plain", backbone, 2, {}, FBR),
        description("cam_train", method="plain", options={}, fbr=FBR.model_dump()),
    ),
    "wsis_train": (
        lambda b: networks.detector(b, networks._Description(INSTANCES), len(CLASSES)),
        description("wsis_train", **INSTANCES),
    ),
}


def write(folder: Path, stage: str) -> Path:
    """A network of this stage in `folder`, its weights the same each time but far from nothing."""
    torch.manual_seed(1)
    build, described = BUILT[stage]
    network = build(backbones.build("small", 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if name.startswith("background."):
                buffer.fill_(50) if name.endswith("pushed") else buffer.copy_(
                    torch.rand(buffer.shape)
                )
    weights.write(folder / "model.safetensors", network)
    write_json(folder / "model.json", described)
    return folder / "model.safetensors"


def photographs(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    """Noise of these sizes (H, W) as a.png, b.png, …"""
    rng = np.random.default_rng(0)
    paths = []
    folder.mkdir(exist_ok=True)
    for name, size in zip("abcdefghij", sizes, strict=False):
        paths.append(folder / f"{name}.png")
        coarse = rng.integers(0, 256, (*(-(-side // 8) for side in size), 3), np.uint8)
        image = coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
        Image.fromarray(image).save(paths[-1])
    return paths
