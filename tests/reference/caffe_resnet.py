"""Caffe's dilated ResNet-101 block by block, on weights under deeplab-pytorch's names."""

import torch
from torch.nn import functional as F

# Of each layer: blocks, the channels that leave them, the first one's stride, and dilation.
LAYERS = {2: (3, 256, 1, 1), 3: (4, 512, 2, 1), 4: (23, 1024, 1, 2), 5: (3, 2048, 1, 4)}
PARTS = ("reduce", "conv3x3", "increase")


def weights(slim, shortcut="shortcut"):
    """Random ones; a block's inner channels are those that leave it by 4 * slim."""
    torch.manual_seed(0)
    state = unit("layer1.conv1", 3, 64, 7)
    before = 64
    for layer, (blocks, channels, _, _) in LAYERS.items():
        inner = channels // 4 // slim
        for block in range(1, 1 + blocks):
            name = f"layer{layer}.block{block}"
            widths = ((before, inner, 1), (inner, inner, 3), (inner, channels, 1))
            for part, shape in zip(PARTS, widths, strict=True):
                state |= unit(f"{name}.{part}", *shape)
            if block == 1:
                state |= unit(f"{name}.{shortcut}", before, channels, 1)
            before = channels
    return state | {"fc.weight": torch.zeros(91, 2048, 1, 1), "fc.bias": torch.zeros(91)}


def unit(name, inputs, outputs, side):
    """A convolution, and the norm behind it."""
    weight = torch.randn(outputs, inputs, side, side) * (2 / (inputs * side * side)) ** 0.5
    norm = {"weight": torch.rand(outputs) + 0.5, "bias": torch.randn(outputs) / 10}
    norm |= {"running_mean": torch.randn(outputs) / 10, "running_var": torch.rand(outputs) + 0.5}
    norm = {f"{name}.bn.{key}": tensor for key, tensor in norm.items()}
    return {f"{name}.conv.weight": weight, **norm}


def maps(state, images):
    """images (B, 3, H, W), blue, green and red in 0…255 less their means → maps of five layers."""

    def run(name, x, stride=1, dilation=1):
        weight = state[f"{name}.conv.weight"]
        padding = dilation * (weight.shape[2] // 2)
        x = F.conv2d(x, weight, None, stride, padding, dilation)
        mean, variance, scale, shift = (
            state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift)

    x = F.max_pool2d(run("layer1.conv1", images, 2).relu(), 3, 2, 1)
    found = [x]
    for layer, (blocks, _, stride, dilation) in LAYERS.items():
        for block in range(1, 1 + blocks):
            name = f"layer{layer}.block{block}"
            step = stride if block == 1 else 1
            inner = run(f"{name}.reduce", x, step).relu()
            inner = run(f"{name}.conv3x3", inner, 1, dilation).relu()
            skip = run(f"{name}.shortcut", x, step) if block == 1 else x
            x = (run(f"{name}.increase", inner) + skip).relu()
        found.append(x)
    return found
