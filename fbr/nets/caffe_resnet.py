"""ResNet-101 as Caffe has it, and the weights that deeplab-pytorch publishes of it, on COCO.

It is torchvision's but for two things: a block that strides does so in its first 1×1 convolution,
not in its 3×3, and where a layer is dilated, all of its blocks are. Either changes what comes out,
so that weights of one are none of the other.
"""

import re

import torch
from torch import Tensor
from torchvision import models

from fbr.errors import Refusal
from fbr.nets.inputs import STD

STEM = {"conv": "conv1", "bn": "bn1"}
# What torchvision calls the parts of a block. Files of older code say proj for shortcut.
PARTS = {
    "reduce": {"conv": "conv1", "bn": "bn1"},
    "conv3x3": {"conv": "conv2", "bn": "bn2"},
    "increase": {"conv": "conv3", "bn": "bn3"},
    "shortcut": {"conv": "downsample.0", "bn": "downsample.1"},
    "proj": {"conv": "downsample.0", "bn": "downsample.1"},
}
NAME = re.compile(
    r"(?:base\.|scale\.)?layer(\d+)\.(?:block(\d+)\.(\w+)|conv1)\.(conv|bn)\.(\w+)",
)


def resnet101_caffe(weights: str | None, replace_stride_with_dilation: list[bool]) -> models.ResNet:
    """Torchvision's ResNet-101 with Caffe's strides and dilations."""
    if weights:
        raise Refusal(
            "network 'resnet101_caffe' has no weights to download: take deeplab-pytorch's "
            "deeplabv1_resnet101-coco.pth through `fbr convert` and name the result"
        )
    net = models.resnet101(replace_stride_with_dilation=replace_stride_with_dilation)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        first = layer[0]
        first.conv1.stride, first.conv2.stride = first.conv2.stride, (1, 1)
        first.conv2.dilation = first.conv2.padding = layer[-1].conv2.dilation
    return net


def knows(state: dict[str, Tensor]) -> bool:
    """Whether weights bear deeplab-pytorch's names."""
    return any(NAME.fullmatch(key) for key in state)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under torchvision's names, for images as `fbr.nets.inputs` normalises them.

    state: under deeplab-pytorch's names, for blue, green and red in 0…255 less their means. What is
    no backbone's, such as a classifier, keeps its name.
    """
    found = {_name(key): tensor for key, tensor in state.items()}
    stem = found.get("conv1.weight")
    if stem is not None and stem.dim() == 4 and stem.shape[1] == 3:
        # The means differ by at most one grey level, which is left to training.
        deviations = 255 * torch.tensor(STD, dtype=stem.dtype)
        found["conv1.weight"] = stem.flip(1) * deviations[:, None, None]
    return found


def _name(key: str) -> str:
    match = NAME.fullmatch(key)
    if match is None:
        return key
    layer, block, part, kind, tensor = match.groups()
    if block is None:
        return f"{STEM[kind]}.{tensor}" if layer == "1" else key
    if part not in PARTS:
        return key
    return f"layer{int(layer) - 1}.{int(block) - 1}.{PARTS[part][kind]}.{tensor}"
