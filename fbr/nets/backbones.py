"""Backbones: photographs in, a list of feature maps out, finest first. No files, no training."""

import logging
from collections.abc import Callable, Collection, Iterator
from itertools import takewhile

import torch
from torch import Tensor, nn
from torchvision import models

from fbr.errors import Refusal, chosen
from fbr.files import weights as files
from fbr.nets import caffe_resnet, depthwise, resnet38
from fbr.positions import Positions

log = logging.getLogger("fbr")

Weights = str | dict[str, Tensor] | None  # "imagenet", a state dict, or nothing
TIMM = "timm/"  # before the name of any network of timm
AT_ONCE = 4  # images whose maps stay in a CPU's cache from one layer to the next


class Backbone(nn.Module):
    """levels: modules run one after another; each one's output is a map of the result.

    channels, strides: of each map. names: of its tensors in published files, where they differ from
    its own. lead: where positions lie in their cells, from 0, the first pixel, to 1, the last.
    """

    lead: float = 0.0  # of convolutions that are padded on both sides

    def __init__(
        self,
        levels: list[nn.Module],
        channels: list[int],
        strides: list[int],
        names: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.channels, self.strides = channels, strides
        self.names = {key: key for key in self.state_dict()} if names is None else names

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → maps [(B, C, h, w), …], each of ⌈H / s⌉ × ⌈W / s⌉ for its stride s."""
        resting = self._resting(images)
        maps = _in_parts(resting, images) if resting else []
        for level in self.levels[len(resting) :]:
            images = level(maps[-1] if maps else images)
            if images.requires_grad:
                images.register_hook(_channels_last)
            maps.append(images)
        return maps

    @property
    def positions(self) -> list[Positions]:
        """Where those of each map lie in the image."""
        return [Positions(stride, self.lead * (stride - 1)) for stride in self.strides]

    def _resting(self, images: Tensor) -> list[nn.Module]:
        """The first levels that a CPU is to run on a few images at a time.

        They keep nothing for a gradient and mix no images, so all that counts is how often their
        large maps go to memory and back: the frozen half of MobileNet-V2 takes half the time.
        """
        exporting = torch.compiler.is_exporting()  # which is to hold for any number of images
        if exporting or images.device.type != "cpu" or images.requires_grad:
            return []
        if len(images) <= AT_ONCE:
            return []
        learning = torch.is_grad_enabled()
        return list(takewhile(lambda level: _rests(level, learning), self.levels))

    def upto(self, levels: int) -> Iterator[nn.Parameter]:
        """The parameters that the first `levels` maps come from."""
        return self.levels[:levels].parameters()

    def freeze(self, levels: int) -> None:
        """Let the first levels stay as they are, statistics and all."""
        if levels > len(self.channels):
            raise Refusal(f"freeze: found {levels}, expected at most {len(self.channels)} levels")
        for parameter in self.upto(levels):
            parameter.requires_grad_(False)
        for norm in _norms(self):
            if not norm.weight.requires_grad:
                freeze_statistics(norm)


def _rests(level: nn.Module, learning: bool) -> bool:
    """Whether nothing in it is to learn, or depends on which images come together."""
    if learning and any(parameter.requires_grad for parameter in level.parameters()):
        return False
    return not any(norm.training for norm in _norms(level))


def _in_parts(levels: list[nn.Module], images: Tensor) -> list[Tensor]:
    """Every level's map, of some images after others."""
    found = []
    for part in images.split(AT_ONCE):
        maps = [part := level(part) for level in levels]
        found.append(maps)
    return [torch.cat(maps) for maps in zip(*found, strict=True)]


def _channels_last(gradient: Tensor) -> Tensor:
    """A gradient laid out as maps are: as a mean spreads it, it slows batch norm down."""
    return gradient.contiguous(memory_format=torch.channels_last)


Builder = Callable[[int, bool], Backbone]  # of stride, and whether to begin from ImageNet


class FrozenStatistics(nn.BatchNorm2d):
    """Batch norm that keeps its running statistics; scale and shift still learn."""

    def train(self, mode: bool = True) -> "FrozenStatistics":
        return super().train(False)


def freeze_statistics(network: nn.Module) -> nn.Module:
    """Keep the statistics that batch norm has learnt, in place: small batches only blur them."""
    for norm in _norms(network):
        kind = type(norm)
        if not issubclass(kind, FrozenStatistics):
            # timm's norms have an activation in them, which must stay.
            plain = kind is nn.BatchNorm2d
            mixed = (FrozenStatistics, kind)
            norm.__class__ = mixed[0] if plain else type(f"Frozen{kind.__name__}", mixed, {})
        norm.eval()
    return network


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


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


def small(stride: int, imagenet: bool) -> Backbone:
    """Three levels at strides 4, 8 and `stride`.

    Batch norm costs half of what group norm does in bfloat16 on a CPU: 83 against 175 ms a step of
    32 images on one core.
    """
    if imagenet or stride not in (8, 16):
        raise Refusal("network 'small' has strides 8 and 16 and starts from weights: none, or cam")
    last = stride // 8
    stem = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), _Residual(32, 32, 2)
    )
    levels = [stem, _Residual(32, 64, 2), nn.Sequential(_Residual(64, 96, last), _Residual(96, 96))]
    return Backbone(levels, [32, 64, 96], [4, 8, stride])


def _resnet(constructor: Callable[..., nn.Module]) -> Builder:
    """A ResNet's five levels at strides 4, 4, 8, 16 and 32; below 32, stride becomes dilation."""

    def backbone(stride: int, imagenet: bool) -> Backbone:
        _check(constructor.__name__, stride)
        dilated = [False, stride <= 8, stride <= 16]
        net = constructor(weights=_published(imagenet), replace_stride_with_dilation=dilated)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        levels = [stem, net.layer1, net.layer2, net.layer3, net.layer4]
        channels, strides = [64, 256, 512, 1024, 2048], _strides([4, 4, 8, 16, 32], stride)
        return Backbone(levels, channels, strides, _names(levels, net))

    return backbone


def mobilenet_v2(stride: int, imagenet: bool) -> Backbone:
    """Five levels at strides 2, 4, 8, 16 and 32; below 32, stride becomes dilation."""
    _check("mobilenet_v2", stride)
    net = models.mobilenet_v2(weights=_published(imagenet))
    features = net.features
    rate = 1
    for conv in {32: nn.Sequential(), 16: features[14:], 8: features[7:]}[stride].modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (rate, rate)
            rate *= conv.stride[0]
            conv.stride = (1, 1)
    levels = [features[:2], features[2:4], features[4:7], features[7:14], features[14:]]
    channels, strides = [16, 24, 32, 96, 1280], _strides([2, 4, 8, 16, 32], stride)
    return Backbone(levels, channels, strides, _names(levels, net))


def resnet38d(stride: int, imagenet: bool) -> Backbone:
    """Five levels at strides 2, 4, 8, 16 and 32; below 32, stride becomes dilation."""
    _check("resnet38d", stride)
    if imagenet:
        raise Refusal(
            "network 'resnet38d' has no weights to download: take its MXNet file "
            "ilsvrc-cls_rna-a1_cls1000_ep-0001.params through `fbr convert` and name the result"
        )
    strides = _strides([2, 4, 8, 16, 32], stride)
    backbone = Backbone(resnet38.levels(stride), resnet38.CHANNELS, strides)
    backbone.names = {key: resnet38.published(key) for key in backbone.names}
    return backbone


def _strides(full: list[int], stride: int) -> list[int]:
    """Of the maps of a network whose last stride has become dilation."""
    return [min(one, stride) for one in full]


def _check(name: str, stride: int) -> None:
    if stride not in (8, 16, 32):
        raise Refusal(f"network '{name}' has strides 8, 16 and 32, found stride {stride}")


def _published(imagenet: bool) -> str | None:
    # The weights of the recipes. Torchvision's second ones learnt from mixed images and smoothed
    # labels.
    return "IMAGENET1K_V1" if imagenet else None


def _names(levels: list[nn.Module], net: nn.Module) -> dict[str, str]:
    """What `net` calls the tensors that it shares with these levels."""
    theirs = {id(tensor): name for name, tensor in net.state_dict(keep_vars=True).items()}
    ours = nn.ModuleDict({"levels": nn.ModuleList(levels)}).state_dict(keep_vars=True)
    return {key: theirs[id(tensor)] for key, tensor in ours.items()}


BACKBONES: dict[str, Builder] = {
    "small": small,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": _resnet(models.resnet50),
    "resnet101": _resnet(models.resnet101),
    "resnet101_caffe": _resnet(caffe_resnet.resnet101_caffe),
    "resnet38d": resnet38d,
}


def build(
    name: str,
    stride: int,
    freeze: int = 0,
    weights: Weights = None,
    keep_norm: Collection[str] | None = None,
    least_matched: float = 0.9,
    dilate: bool = True,
) -> Backbone:
    """A backbone by name, from nothing, published ImageNet weights, or a state dict.

    freeze: how many of the first levels stay as they are. keep_norm: what every batch norm keeps,
    of "statistics" and "affine"; by default the statistics that come with weights. least_matched:
    the share of tensors that a state dict must fill. dilate: let convolutions see as far as before
    where a stride was taken from the network, as its weights have learnt to.
    """
    backbone = _builder(name)(stride, weights == "imagenet")
    if not dilate:
        _undilate(backbone)
    depthwise.take(backbone)
    if isinstance(weights, dict):
        report = files.take(backbone, weights, least_matched, backbone.names)
        log.info("%s: %s", name, report)
    backbone.freeze(freeze)
    if keep_norm is None:
        keep_norm = [] if weights is None else ["statistics"]
    if "statistics" in keep_norm:
        freeze_statistics(backbone)
    if "affine" in keep_norm:
        for norm in _norms(backbone):
            norm.requires_grad_(False)
    return backbone


def _undilate(backbone: Backbone) -> None:
    for conv in backbone.modules():
        if isinstance(conv, nn.Conv2d):
            pairs = zip(conv.padding, conv.dilation, strict=True)
            conv.padding = tuple(around // apart for around, apart in pairs)
            conv.dilation = (1, 1)


def _builder(name: str) -> Builder:
    if name.startswith(TIMM):
        from fbr.nets import timm_backbones

        return timm_backbones.builder(name.removeprefix(TIMM))
    return chosen(BACKBONES, name, "network")
