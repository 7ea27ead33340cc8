"""SEAM: maps that follow colours on four by four pixels, and its losses from what two views see."""

import pytest
import torch
import torch.nn.functional as F

from fbr.cam.seam import Seam, correlated, shares
from fbr.errors import Refusal
from tests.reference import numbers, positions
from tests.reference import seam as twin
from tests.unit.cam.stand_in import Backbone, batch

CLASSES = 3


def seam(view=16, seed=0, **options) -> Seam:
    torch.manual_seed(seed)
    options = numbers.seam(view=view, **options)
    return Seam(Backbone(), CLASSES, Seam.Options.model_validate(options))


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 2, 6, 2)])
def test_correlated_is_the_equation(size):
    torch.manual_seed(0)
    maps, looks = torch.rand(size), torch.randn(size[0], 5, *size[2:])
    expected = twin.correlated(maps.double().flatten(2), looks.double().flatten(2))
    found = correlated(maps, looks)
    torch.testing.assert_close(found.double().flatten(2), expected, atol=1e-5, rtol=1e-5)


def test_maps_spread_over_what_looks_alike_and_no_further():
    """Four by four: the left half is red, the right half green; the map knows one corner."""
    looks = torch.zeros(1, 2, 4, 4)
    looks[:, 0, :, :2] = 3
    looks[:, 1, :, 2:] = 0.5
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 1, 0, 0] = 1
    maps[0, 0] = 1 - maps[0, 1]
    found = correlated(maps, looks)
    assert found[0, 1, :, :2] == pytest.approx(torch.full((4, 2), 1 / 8), abs=1e-5)
    assert not found[0, 1, :, 2:].any()
    assert found.sum(1) == pytest.approx(torch.ones(1, 4, 4), abs=1e-4)


def test_pixels_that_look_opposed_do_not_count():
    looks = torch.tensor([1.0, 1, -1, 0]).view(1, 1, 2, 2)
    maps = torch.tensor([0.2, 0.6, 0.9, 0.5]).view(1, 1, 2, 2)
    found = correlated(maps, looks).flatten()
    assert found.tolist() == pytest.approx([0.4, 0.4, 0.9, 0], abs=1e-4)


def test_losses_are_those_of_the_two_views():
    """From the maps that each view gives, by the equations, where the small view's lie."""
    network, given = seam(), batch(2, CLASSES)
    whole, small = network.pair(given["image"])
    assert whole.maps.shape[2:] == (8, 8)
    assert small.maps.shape[2:] == (4, 4)
    labels = given["label"].double()

    def in_shares(maps, labels):
        """Each map from its least to its largest value, then at the small view's positions."""
        found = torch.zeros_like(maps, dtype=torch.double)
        for b in range(len(maps)):
            for c in range(maps.shape[1]):
                own = twin.stretched(maps[b, c].detach().double().flatten())
                found[b, c] = own.view(maps.shape[2:]) * labels[b, c]
        whole = maps.shape[2:] == (8, 8)
        return (positions.onto(found, (32, 32), (16, 16), (4, 0)) if whole else found).flatten(2)

    maps = [in_shares(view.maps, labels) for view in (whole, small)]
    with_ground = torch.cat([torch.ones(2, 1), labels], 1)
    refined = [in_shares(view.refined, with_ground) for view in (whole, small)]
    least = [
        twin.least_activation(view.refined.double().flatten(2)[:, 1:] * labels[:, :, None])
        for view in (whole, small)
    ]
    classified = [
        F.binary_cross_entropy_with_logits(view.maps.double().mean((2, 3)), labels)
        for view in (whole, small)
    ]
    expected = {
        "classification": sum(classified) / 2,
        "least_activation": sum(least) / 2,
        "equivariance": twin.equivariance(*maps),
        "cross_equivariance": twin.cross_equivariance(refined[0], maps[1], 0.2)
        + twin.cross_equivariance(refined[1], maps[0], 0.2),
    }
    found = network(given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name
        assert value > 0


def test_two_views_of_one_size_agree():
    network, given = seam(view=32), batch(2, CLASSES)
    whole, small = network.pair(given["image"])
    assert whole.size == small.size == (32, 32)
    for one, other in zip(whole[1:], small[1:], strict=True):
        assert torch.equal(one, other)
    assert network(given)["equivariance"] == 0


def test_colours_and_levels_are_read_where_maps_lie():
    network, given, mixed = seam(), batch(2, CLASSES, 33), []
    network.correlate.mix.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    network.see(given["image"])
    first, second, _ = network.backbone(given["image"])
    levels = [first[..., ::2, ::2], second]  # of strides 2 and 4, as maps have
    narrow = zip(network.correlate.narrow, levels, strict=True)
    expected = [given["image"][..., ::4, ::4], *(conv(level).relu() for conv, level in narrow)]
    torch.testing.assert_close(mixed[0], torch.cat(expected, 1))


def test_refinement_trains_no_backbone_and_maps_do_not_train_it():
    network, given = seam(), batch(2, CLASSES)
    network(given)["cross_equivariance"].backward()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {"correlate"}
    network.zero_grad(set_to_none=True)
    network(given)["equivariance"].backward()
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert trained == {"backbone", "classify"}


def test_refined_maps_are_shares_of_all():
    network = seam()
    view = network.see(batch(2, CLASSES)["image"])
    assert view.refined.shape == (2, 1 + CLASSES, 8, 8)
    assert view.refined.min() >= 0
    assert view.refined.sum(1).max() <= 1 + 1e-4
    assert torch.equal(network.maps(batch(2, CLASSES)["image"]), view.refined[:, 1:])


def test_what_looks_alike_is_told_by_the_levels_chosen():
    one, other = seam(), seam(levels=[-2], level_widths=[16])
    assert other.correlate.mix.weight.shape == (16, 19, 1, 1)
    assert len(one.correlate.narrow) == 2
    with pytest.raises(ValueError, match="found 1 levels and 2 level_widths, expected one"):
        seam(levels=[-2], level_widths=[16, 16])
    with pytest.raises(Refusal, match=r"levels: found -4, expected -1 down to -3"):
        seam(levels=[-4], level_widths=[16])


def test_a_flat_map_has_no_shares():
    assert not shares(torch.full((1, 2, 3, 3), 0.7)).any()
    assert not shares(-torch.rand(1, 2, 3, 3)).any()


def test_finished_maps_run_from_their_least_to_their_largest_value():
    torch.manual_seed(0)
    found = 0.4 + torch.rand(CLASSES, 5, 7)
    keys = torch.tensor([1, 3])
    finished = seam().finish(found, keys)
    for mine, key in zip(finished, keys.tolist(), strict=True):
        expected = twin.stretched(found[key - 1].double().flatten())
        torch.testing.assert_close(mine.double().flatten(), expected)
    assert seam().finish(found, torch.tensor([], dtype=torch.long)).shape == (0, 5, 7)
    assert seam().finish(torch.full((CLASSES, 1, 1), 0.3), keys).tolist() == [[[0.0]], [[0.0]]]


def test_dropout_takes_whole_channels_from_maps_and_features_while_it_trains():
    network, images = seam(dropout=0.5), batch(4, CLASSES)["image"]
    view = network.see(images)
    gone = (view.features == 0).flatten(2).all(2)
    assert 0 < gone.float().mean() < 1
    torch.testing.assert_close(view.maps, network.classify(view.features))
    network.eval()
    assert torch.equal(network.see(images).features, network.backbone(images)[-1])
