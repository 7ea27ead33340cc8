"""Backbones: photographs in, a list of feature maps out, finest first. No files, no training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models

from fbr.errors import Refusal, chosen

Weights = str | dict[str, Tensor] | None  # "imagenet", a state dict, or nothing


class Backbone(nn.Module):
    """levels: modules run one after another; each one's output is a map of the result.

    channels: of each map. freeze: how many of the first levels do not train.
    """

    def __init__(self, levels: list[nn.Module], channels: list[int], freeze: int = 0) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.channels = channels
        for level in self.levels[:freeze]:
            level.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → maps [(B, C, h, w), …]."""
        maps = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps


Builder = Callable[[int, int, Weights], Backbone]


class FrozenStatistics(nn.BatchNorm2d):
    """Batch norm that keeps its running statistics; scale and shift still learn."""

    def train(self, mode: bool = True) -> "FrozenStatistics":
        return super().train(False)


def freeze_statistics(network: nn.Module) -> nn.Module:
    """Keep the statistics that batch norm has learnt, in place: small batches only blur them."""
    for child in network.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.__class__ = FrozenStatistics
    return network


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


def small(stride: int, freeze: int, weights: Weights) -> Backbone:
    """Three levels at strides 4, 8 and `stride`.

    Batch norm costs half of what group norm does in bfloat16 on a CPU: 83 against 175 ms a step of
    32 images on one core.
    """
    if weights is not None or stride not in (8, 16):
        raise Refusal("network 'small' has strides 8 and 16 and starts from weights: none, or cam")
    last = stride // 8
    stem = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), _Residual(32, 32, 2)
    )
    levels = [stem, _Residual(32, 64, 2), nn.Sequential(_Residual(64, 96, last), _Residual(96, 96))]
    return Backbone(levels, [32, 64, 96], freeze)


def _resnet(constructor: Callable[..., nn.Module]) -> Builder:
    """A ResNet's five levels at strides 4, 4, 8, 16 and 32; below 32, stride becomes dilation."""

    def backbone(stride: int, freeze: int, weights: Weights) -> Backbone:
        dilated = [False, stride <= 8, stride <= 16]
        net = _start(constructor, weights, replace_stride_with_dilation=dilated)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        levels = [stem, net.layer1, net.layer2, net.layer3, net.layer4]
        return Backbone(levels, [64, 256, 512, 1024, 2048], freeze)

    return backbone


def mobilenet_v2(stride: int, freeze: int, weights: Weights) -> Backbone:
    """Five levels at strides 2, 4, 8, 16 and 32; below 32, stride becomes dilation."""
    features = _start(models.mobilenet_v2, weights).features
    rate = 1
    for conv in {32: nn.Sequential(), 16: features[14:], 8: features[7:]}[stride].modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (rate, rate)
            rate *= conv.stride[0]
            conv.stride = (1, 1)
    levels = [features[:2], features[2:4], features[4:7], features[7:14], features[14:]]
    return Backbone(levels, [16, 24, 32, 96, 1280], freeze)


def _start(constructor: Callable[..., nn.Module], weights: Weights, **options: object) -> nn.Module:
    """Build torchvision's network and fill it; pretrained batch statistics stay as they are."""
    net = constructor(weights="DEFAULT" if weights == "imagenet" else None, **options)
    if isinstance(weights, dict):
        own = net.state_dict()
        fits = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        if len(fits) < 0.9 * len(own):
            raise Refusal(
                f"weights fit {len(fits)} of {len(own)} tensors of {constructor.__name__}, "
                "expected at least 90 %; name the network that they belong to"
            )
        net.load_state_dict(fits, strict=False)
    return freeze_statistics(net) if weights is not None else net


BACKBONES: dict[str, Builder] = {
    "small": small,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": _resnet(models.resnet50),
    "resnet101": _resnet(models.resnet101),
}


def build(name: str, stride: int, freeze: int = 0, weights: Weights = None) -> Backbone:
    """A backbone by name, from nothing, torchvision's ImageNet weights, or a state dict."""
    return chosen(BACKBONES, name, "network")(stride, freeze, weights)
