"""Any network of timm that shows its maps, as a backbone: ResNeSt, ConvNeXt, HRNet, DINOv2, …"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbr.errors import Refusal, nearest
from fbr.nets.backbones import Backbone, Builder
from fbr.nets.inputs import MEAN, STD
from fbr.positions import Positions


class TimmBackbone(Backbone):
    """net: a network of timm. at: which of its maps are taken, finest first.

    merge: all maps but the first are brought to one, on the finest one's grid, as HRNet's branches
    are (arXiv 1904.04514): they run side by side.
    """

    def __init__(self, net: Any, at: list[int], merge: bool) -> None:
        shown = [net.feature_info[i] for i in at]
        channels, strides = ([info[key] for info in shown] for key in ("num_chs", "reduction"))
        # Whole patches, and branches that halve without a rest.
        whole = max(strides)
        self.branches = [Positions(stride) for stride in strides[1:]]
        if merge:
            channels, strides = [channels[0], sum(channels[1:])], strides[:2]
        super().__init__([], channels, strides)
        self.whole = whole
        self.net, self.at, self.merge = net, at, merge
        self.lead = _lead(net)
        self.names = {f"net.{key}": key for key in net.state_dict()}
        mean, std = (torch.tensor(net.pretrained_cfg[key]) for key in ("mean", "std"))
        ours, spread = torch.tensor(MEAN), torch.tensor(STD)
        self.register_buffer("scale", (spread / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((ours - mean) / std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self._maps(images, norm=True)

    def _maps(self, images: Tensor, norm: bool) -> list[Tensor]:
        """norm: whether the network's last norm is applied, by a transformer to every map."""
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % self.whole, 0, -height % self.whole))
        images = images * self.scale + self.shift  # as the network's own weights know them
        if hasattr(self.net, "forward_intermediates"):
            maps = self.net.forward_intermediates(
                images, indices=self.at, norm=norm, intermediates_only=True
            )
        else:  # it is made for its maps
            maps = self.net(images)
        if self.merge:
            maps = [maps[0], _merged(maps[1:], self.branches)]
        return [
            map[..., : -(-height // stride), : -(-width // stride)]
            for map, stride in zip(maps, self.strides, strict=True)
        ]

    def upto(self, levels: int) -> Iterator[nn.Parameter]:
        """The parameters that the first `levels` maps come from, whatever module they lie in."""
        if levels == 0:
            return
        own = list(self.parameters())
        self.eval()
        maps = self._maps(torch.zeros(1, 3, 2 * self.whole, 2 * self.whole), norm=False)
        total = sum(map.sum() for map in maps[:levels])
        gradients = torch.autograd.grad(total, own, allow_unused=True)
        self.train()
        yield from (p for p, gradient in zip(own, gradients, strict=True) if gradient is not None)


def _lead(net: nn.Module) -> float:
    """Where positions lie in their cells, by the first convolution that has a stride."""
    strided = (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1)
    for stem in strided:
        if type(stem).__name__ == "Conv2dSame":  # padded behind alone, as TensorFlow does
            return 1.0
        return 0.5 if stem.stride == stem.kernel_size else 0.0  # patches lie around theirs
    return 0.0


def _merged(maps: list[Tensor], places: list[Positions]) -> Tensor:
    size, own = maps[0].shape[2:], places[0]
    brought = [own.bilinear(m, size, place) for m, place in zip(maps, places, strict=True)]
    return torch.cat(brought, 1).to(maps[0].dtype)


def builder(name: str) -> Builder:
    """The builder of a network of timm; an unknown name is refused with the nearest one."""
    timm = _timm(name)
    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        raise Refusal(
            f"network: found 'timm/{name}', which timm {timm.__version__} does not have."
            f"{nearest(arch, timm.list_models())}"
        )
    tags = timm.list_pretrained(f"{arch}.*") if tag else [name]
    if name not in tags:
        raise Refusal(
            f"network: found 'timm/{name}', expected one of the weights of {arch}: "
            f"{', '.join(tags) or 'none'}.{nearest(name, tags)}"
        )

    def backbone(stride: int, imagenet: bool) -> Backbone:
        net = _network(timm, name, stride, imagenet)
        at = _levels([info["reduction"] for info in net.feature_info])
        if hasattr(net, "prune_intermediate_layers"):
            net.prune_intermediate_layers(at, prune_norm=False, prune_head=True)
        built = TimmBackbone(net, at, merge=arch.startswith("hrnet"))
        if built.strides[-1] != stride:
            raise Refusal(
                f"network 'timm/{name}' gives maps at stride {built.strides[-1]}, "
                f"found stride {stride}"
            )
        _try(built, name)
        return built

    return backbone


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise Refusal(
            f"network 'timm/{name}' needs timm, which is not here: pip install 'fbr[timm]'"
        ) from None
    return timm


def _network(timm: ModuleType, name: str, stride: int, imagenet: bool) -> nn.Module:
    """The network with what lets it have this stride, or images of any size."""
    if name.startswith("hrnet"):
        offers = [{"head": ""}]
    else:
        strides = [{"output_stride": stride}, {"output_stride": stride, "features_only": True}]
        offers = [*strides, {"dynamic_img_size": True}, {"strict_img_size": False}, {}]
    for options in offers:
        try:
            return timm.create_model(name, pretrained=imagenet, **options)
        except (TypeError, AssertionError) as error:
            said = error
        except RuntimeError as error:
            if not imagenet:
                raise
            raise OSError(str(error)) from None
    raise Refusal(f"network 'timm/{name}' cannot be a backbone: {said}")


def _levels(strides: list[int]) -> list[int]:
    """Every map; of a transformer, whose maps have one grid, those behind each quarter."""
    count = len(strides)
    if len(set(strides)) > 1 or count < 4:
        return list(range(count))
    return [count * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


@torch.no_grad()
def _try(backbone: TimmBackbone, name: str) -> None:
    """Refuse a network that takes images of one size only, or whose grids are its own."""
    height, width = 2 * backbone.whole + 1, 3 * backbone.whole + 1
    backbone.eval()
    try:
        maps = backbone(torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise Refusal(f"network 'timm/{name}' cannot be a backbone: {said}") from None
    grids = [(-(-height // stride), -(-width // stride)) for stride in backbone.strides]
    if [tuple(map.shape[2:]) for map in maps] != grids:
        raise Refusal(
            f"network 'timm/{name}' cannot be a backbone: its maps are not of the image's size by "
            "their stride"
        )
    backbone.train()
