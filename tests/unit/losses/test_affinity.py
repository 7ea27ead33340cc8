"""The losses of the inter-pixel relation network against pairs visited one by one."""

import pytest
import torch

from fbr.losses.affinity import affinity_losses, displacement_losses
from fbr.masks.affinity import (
    edge_to_affinity,
    feature_affinity,
    pair_difference,
    pair_labels,
    path_index,
)
from tests.reference import affinity as twin
from tests.reference import psa


def parts(edge, field, labels, radius):
    masks = pair_labels(labels, radius)
    return affinity_losses(edge_to_affinity(edge, radius), *masks) | displacement_losses(
        pair_difference(field, radius),
        torch.tensor(path_index(radius).displacements),
        masks.background,
        masks.foreground,
    )


def total(losses):
    return sum(value / count.clamp(min=1) for value, count in losses.values())


@pytest.mark.parametrize(("batch", "size"), [(1, (6, 7)), (3, (5, 5)), (1, (1, 1)), (2, (1, 6))])
@pytest.mark.parametrize("values", [[0, 1, 2, 255], [0], [3], [255], [0, 255], [1, 2]])
def test_total_equals_the_twin(batch, size, values):
    generator = torch.Generator().manual_seed(0)
    edge = torch.rand(batch, 1, *size, generator=generator)
    field = 3 * torch.randn(batch, 2, *size, generator=generator)
    labels = torch.tensor(values)[torch.randint(len(values), (batch, *size), generator=generator)]
    found = total(parts(edge, field, labels, 3))
    expected = twin.total_loss(edge[:, 0].tolist(), field.tolist(), labels.tolist(), 3)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_sums_and_counts_of_two_batches_add_up():
    edge, field = torch.rand(4, 1, 6, 6), torch.randn(4, 2, 6, 6)
    labels = torch.randint(0, 3, (4, 6, 6))
    whole = parts(edge, field, labels, 3)
    halves = [parts(edge[s], field[s], labels[s], 3) for s in (slice(0, 1), slice(1, 4))]
    for name, pair in whole.items():
        for value, one, other in zip(pair, *(half[name] for half in halves), strict=True):
            torch.testing.assert_close(value, one + other)


def test_empty_masks_give_a_zero_in_the_graph():
    edge = torch.rand(1, 1, 4, 4, requires_grad=True)
    field = torch.randn(1, 2, 4, 4, requires_grad=True)
    losses = parts(edge, field, torch.full((1, 4, 4), 255), 3)
    assert all(count == 0 for _, count in losses.values())
    loss = total(losses)
    loss.backward()
    assert loss == 0
    assert not edge.grad.any()
    assert not field.grad.any()


def test_saturated_boundaries_stay_finite():
    edge = torch.eye(6)[None, None].requires_grad_()
    losses = parts(edge, torch.zeros(1, 2, 6, 6), torch.randint(0, 2, (1, 6, 6)), 3)
    total(losses).backward()
    assert edge.grad.isfinite().all()


def test_a_field_that_points_at_one_spot_costs_nothing():
    spot = torch.tensor([2.0, 4.0]).view(2, 1, 1)
    grid = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")).float()
    field = (spot - grid)[None]
    on_object = parts(torch.rand(1, 1, 6, 9), field, torch.ones(1, 6, 9, dtype=torch.long), 4)
    assert on_object["displacement_fg"][0] == pytest.approx(0, abs=1e-5)
    elsewhere = parts(torch.rand(1, 1, 6, 9), field, torch.zeros(1, 6, 9, dtype=torch.long), 4)
    assert elsewhere["displacement_bg"][0] > 1


@pytest.mark.parametrize(("batch", "size"), [(1, (6, 7)), (2, (5, 5)), (1, (1, 1)), (2, (1, 6))])
@pytest.mark.parametrize("values", [[0, 1, 2, 255], [0], [3], [255]])
def test_total_over_features_equals_the_twin(batch, size, values):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, 3, *size, generator=generator)
    labels = torch.tensor(values)[torch.randint(len(values), (batch, *size), generator=generator)]
    found = total(affinity_losses(feature_affinity(features, 3), *pair_labels(labels, 3)))
    expected = psa.total_loss(features.tolist(), labels.tolist(), 3)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
