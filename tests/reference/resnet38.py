"""ResNet-38 (model A1) at stride 8, block after block, from tensors named as they are published."""

import torch
import torch.nn.functional as F


def maps(tensors, images):
    """What blocks 3, 4, 5 and 6 read, and the last map, normalised and rectified each."""

    def rectified(name, x):
        mean, var = tensors[f"bn{name}_moving_mean"], tensors[f"bn{name}_moving_var"]
        gamma, beta = tensors[f"bn{name}_gamma"], tensors[f"bn{name}_beta"]
        columns = [v[:, None, None] for v in (mean, var, gamma, beta)]
        mean, var, gamma, beta = columns
        return ((x - mean) / torch.sqrt(var + 1e-5) * gamma + beta).clamp(min=0)

    def conv(name, x, stride=1, dilation=1):
        weight = tensors[f"{name}_weight"]
        padding = dilation * (weight.shape[2] // 2)
        return F.conv2d(x, weight, None, stride, padding, dilation)

    read = []
    x = conv("conv1a", images)
    for block, units in ((2, 3), (3, 3), (4, 6), (5, 3)):
        for unit in range(units):
            name = f"{block}a" if unit == 0 else f"{block}b{unit}"
            stride = 2 if unit == 0 and block < 5 else 1
            first = 2 if unit > 0 and block == 5 else 1
            second = 2 if block == 5 else 1
            entered = rectified(f"{name}_branch2a", x)
            if unit == 0:
                read.append(entered)
                x = conv(f"res{name}_branch1", entered, stride)
            y = conv(f"res{name}_branch2a", entered, stride, first)
            y = rectified(f"{name}_branch2b1", y)
            x = x + conv(f"res{name}_branch2b1", y, 1, second)
    for name in ("6a", "7a"):
        entered = rectified(f"{name}_branch2a", x)
        read.append(entered)
        y = conv(f"res{name}_branch2a", entered)
        y = conv(f"res{name}_branch2b1", rectified(f"{name}_branch2b1", y), 1, 4)
        y = conv(f"res{name}_branch2b2", rectified(f"{name}_branch2b2", y))
        x = conv(f"res{name}_branch1", entered) + y
    _, third, fourth, fifth, sixth, _ = read
    return [third, fourth, fifth, sixth, rectified("7", x)]
