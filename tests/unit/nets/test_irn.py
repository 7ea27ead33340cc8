"""The inter-pixel relation network: shapes, what is frozen, and the mean shift."""

from math import prod

import pytest
import torch
from torch import nn

from fbr.nets.irn import AffinityNet
from fbr.positions import Positions

TOY = ([12, 20, 33], [4, 2, 2])
FINE = ([6, 12, 20, 33], [2, 2, 2, 2])  # finer than asked for at first
TWO = ([12, 20], [2, 2])  # as HRNet's branches, merged: none can be left out
DEEP = ([16, 32, 64, 96, 128], [4, 1, 2, 2, 1])


class Backbone(nn.Module):
    """Strided convolutions with batch norm, one feature map a level."""

    def __init__(self, channels, strides):
        super().__init__()
        self.positions = [Positions(prod(strides[: i + 1])) for i in range(len(strides))]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 3, stride=s, padding=1), nn.BatchNorm2d(o), nn.Dropout(0.5)
            )
            for i, o, s in zip([3, *channels[:-1]], channels, strides, strict=True)
        )

    def forward(self, images):
        maps = [images]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]


def network(shape=TOY, width=8):
    torch.manual_seed(0)
    return AffinityNet(Backbone(*shape), shape[0], width)


@pytest.mark.parametrize("shape", [TOY, FINE, TWO, DEEP])
@pytest.mark.parametrize(("batch", "size"), [(1, (33, 47)), (2, (32, 32)), (1, (1, 1))])
def test_outputs_lie_on_the_grid_of_stride_4_or_the_finest(shape, batch, size):
    stride = 2 if shape is TWO else 4
    grid = [-(-side // stride) for side in size]
    net = network(shape)
    assert net.positions == Positions(stride)
    edge, displacement = net(torch.randn(batch, 3, *size))
    assert edge.shape == (batch, 1, *grid)
    assert displacement.shape == (batch, 2, *grid)


def test_only_the_branches_learn():
    net = network().train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    edge, displacement = net(torch.randn(2, 3, 16, 16))
    (edge.sum() + displacement.square().sum()).backward()
    assert not any(p.requires_grad for p in net.backbone.parameters())
    assert all(
        p.grad is not None for branch in (net.edge, net.displacement) for p in branch.parameters()
    )
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_backbone_keeps_out_of_training_mode():
    net = network().train()
    assert net.edge.training
    assert not any(module.training for module in net.backbone.modules())


def test_the_mean_shift_is_taken_off_in_eval_mode_only_and_is_saved():
    net, images = network(), torch.randn(1, 3, 16, 16)
    raw = net.train()(images)[1]
    torch.testing.assert_close(net.eval()(images)[1], raw)
    net.set_mean_shift(raw.detach().mean(dim=(0, 2, 3)))
    shifted = net(images)[1]
    torch.testing.assert_close(shifted.mean(dim=(0, 2, 3)), torch.zeros(2))
    torch.testing.assert_close(net.train()(images)[1], raw)

    copy = network().eval()
    copy.load_state_dict(net.state_dict())
    torch.testing.assert_close(copy(images)[1], shifted)


def test_outputs_are_exact_under_mixed_precision():
    net, images = network(), torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(images)
    for output, exact in zip(mixed, net(images), strict=True):
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, exact, atol=0.05, rtol=0.05)


def test_images_of_a_batch_do_not_mix():
    net, images = network().train(), torch.randn(3, 3, 16, 24)
    for together, alone in zip(net(images), net(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone)


def test_a_few_steps_find_a_boundary():
    net = network()
    images = torch.randn(2, 3, 64, 64) * 0.1
    images[..., 32:] += 2
    target = torch.zeros(2, 1, 16, 16)
    target[..., 7:9] = 1
    optimiser = torch.optim.Adam(net.edge.parameters(), 0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(net(images)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
