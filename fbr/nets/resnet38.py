"""ResNet-38, wide and shallow, of pre-activation units: model A1 of Wu et al., arXiv 1611.10080.

Layers bear the names of the published weights, so that their files fit.
"""

from itertools import pairwise

from torch import Tensor, nn

CHANNELS = [128, 256, 512, 1024, 4096]
# Of each block: its units, and the widths of a unit's convolutions. Two are 3×3; of three, the
# middle one is, between 1×1.
BLOCKS = {
    2: (3, [128, 128]),
    3: (3, [256, 256]),
    4: (6, [512, 512]),
    5: (3, [512, 1024]),
    6: (1, [512, 1024, 2048]),
    7: (1, [1024, 2048, 4096]),
}
DROPOUT = {6: 0.3, 7: 0.5}


class _Unit(nn.Module):
    """Convolutions beside a skip."""

    def __init__(self, branch: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip = branch, skip

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.skip(x)


def levels(stride: int) -> list[nn.Module]:
    """Five levels at strides 2, 4, 8, 16 and 32; below 32, stride becomes dilation.

    A block's first unit projects, so all that it reads is normalised and rectified: that norm and
    ReLU close the level before, and every map is what the next level reads.
    """
    done, level = [], nn.Sequential()
    level.add_module("conv1a", nn.Conv2d(3, 64, 3, padding=1, bias=False))
    width, reached, rate = 64, 1, 1
    for block, (units, widths) in BLOCKS.items():
        _rectify(level, f"bn{block}a_branch2a", width)
        if 2 < block < 7:
            done.append(level)
            level = nn.Sequential()
        factor = 2 if block < 7 else 1
        step = factor if reached < stride else 1
        before, rate, reached = rate, rate * factor // step, reached * step
        skip = nn.Sequential()
        skip.add_module(f"res{block}a_branch1", nn.Conv2d(width, widths[-1], 1, step, bias=False))
        for name in (f"{block}{unit}" for unit in ["a", *(f"b{i}" for i in range(1, units))]):
            branch = nn.Sequential()
            if name != f"{block}a":
                _rectify(branch, f"bn{name}_branch2a", width)
                skip, step, before = nn.Identity(), 1, rate
            _convolve(branch, name, [width, *widths], step, before, rate, DROPOUT.get(block, 0))
            level.add_module(f"unit{name}", _Unit(branch, skip))
            width = widths[-1]
    _rectify(level, "bn7", width)
    return [*done, level]


def _rectify(layers: nn.Sequential, name: str, width: int) -> None:
    layers.add_module(name, nn.BatchNorm2d(width))
    layers.add_module(f"{name}_relu", nn.ReLU(inplace=True))


def _convolve(
    layers: nn.Sequential,
    name: str,
    widths: list[int],
    step: int,
    first: int,
    rate: int,
    dropout: float,
) -> None:
    """A unit's convolutions; the first has the stride, or the dilation from before it."""
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        part = f"{name}_branch2{f'b{i}' if i else 'a'}"
        if i:
            _rectify(layers, f"bn{part}", inputs)
            if dropout:
                layers.add_module(f"drop{part}", nn.Dropout2d(dropout))
        kernel = 3 if len(widths) == 3 or i == 1 else 1
        apart = 1 if kernel == 1 else rate if i else first
        padding, step = apart * (kernel // 2), step if i == 0 else 1
        conv = nn.Conv2d(inputs, outputs, kernel, step, padding, apart, bias=False)
        layers.add_module(f"res{part}", conv)


NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}


def published(key: str) -> str:
    """What the published file calls a tensor: "….bn7.running_var" is its "bn7_moving_var"."""
    *_, layer, kind = key.split(".")
    return f"{layer}_{NORM.get(kind, kind) if layer.startswith('bn') else kind}"
