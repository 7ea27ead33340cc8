"""Depthwise convolutions whose gradients a CPU finds quickly.

oneDNN has no fast backward pass for those with gaps, nor in bfloat16 for those with a stride: the
three dilated layers of MobileNet-V2 at stride 16 took four tenths of a step.
"""

import torch
from torch import Tensor, nn


class Depthwise(nn.Conv2d):
    """The same convolution by another way, where a CPU is to have its gradients.

    With a gap of d, pixels that are d apart are neighbours in one of d² smaller pictures, whose
    convolution has no gap. With a stride, the computation is that of single precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, h, w)."""
        learns = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if x.device.type != "cpu" or not (self.training and learns):
            return super().forward(x)
        if self.stride != (1, 1):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(x.dtype)
        gap, (height, width) = self.dilation[0], x.shape[2:]
        near = tuple(padding // gap for padding in self.padding)
        parts = nn.functional.conv2d(
            apart(x, gap), self.weight, self.bias, padding=near, groups=self.groups
        )
        whole = together(parts, gap)[:, :, :height, :width]
        return whole.contiguous(memory_format=torch.channels_last)


def take(network: nn.Module) -> nn.Module:
    """Let every depthwise convolution that has a stride, or a gap that fits, be one of these."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1 and _slow(layer):
            layer.__class__ = Depthwise
    return network


def _slow(layer: nn.Conv2d) -> bool:
    if layer.stride != (1, 1):
        return layer.dilation == (1, 1)
    gap, other = layer.dilation
    kept = tuple(gap * (side // 2) for side in layer.kernel_size)
    return gap == other > 1 and layer.padding == kept


def apart(x: Tensor, gap: int) -> Tensor:
    """(B, C, H, W) → (gap² · B, C, ⌈H / gap⌉, ⌈W / gap⌉), zeros where a picture is too small."""
    height, width = x.shape[2:]
    whole = nn.functional.pad(x, (0, -width % gap, 0, -height % gap)).permute(0, 2, 3, 1)
    split = whole.unflatten(2, (-1, gap)).unflatten(1, (-1, gap))  # B, h, gap, w, gap, C
    return split.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def together(parts: Tensor, gap: int) -> Tensor:
    """What `apart` took apart, with its zeros."""
    split = parts.permute(0, 2, 3, 1).unflatten(0, (gap, gap, -1))  # gap, gap, B, h, w, C
    return split.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
