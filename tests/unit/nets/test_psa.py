"""Features of pairs: shapes, what learns, mixed precision, and a boundary that they find."""

import pytest
import torch

from fbr.losses.affinity import affinity_losses
from fbr.masks.affinity import feature_affinity, pair_labels
from fbr.nets.psa import PairFeatures
from tests.unit.nets.test_irn import DEEP, Backbone

TOY = ([12, 20, 33], [2, 2, 2])


def network(shape=TOY, width=4):
    torch.manual_seed(0)
    return PairFeatures(Backbone(*shape), shape[0], width)


@pytest.mark.parametrize(
    ("shape", "stride", "channels"), [(TOY, 2, 28), (DEEP, 8, 28), (([9], [4]), 4, 4)]
)
@pytest.mark.parametrize(("batch", "size"), [(1, (33, 47)), (2, (32, 32)), (1, (1, 1))])
def test_features_lie_on_the_finest_grid_taken(shape, stride, channels, batch, size):
    grid = [-(-side // stride) for side in size]
    features = network(shape).eval()(torch.randn(batch, 3, *size))
    assert features.shape == (batch, channels, *grid)


def test_backbone_and_head_learn():
    net = network().train()
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    head = {id(p) for module in net.head for p in module.parameters()}
    assert head == {id(p) for n, p in net.named_parameters() if not n.startswith("backbone.")}


def test_features_are_float32_under_mixed_precision():
    net, images = network().eval(), torch.randn(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(images)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, net(images), atol=0.2, rtol=0.1)


def test_a_few_steps_find_a_boundary():
    net = network().eval()
    images = torch.randn(2, 3, 32, 32) * 0.1
    images[..., 16:] += 2
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[..., 8:] = 3
    pairs = pair_labels(labels, 3)
    optimiser = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(25):
        affinity = feature_affinity(net(images), 3)
        loss = sum(value / count for value, count in affinity_losses(affinity, *pairs).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    same = pairs.background | pairs.foreground
    assert affinity[same].mean() > affinity[pairs.negative].mean() + 0.3
