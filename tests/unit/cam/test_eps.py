"""EPS: a classifier with a background channel, and saliency read where its positions lie."""

import pytest
import torch
import torch.nn.functional as F

from fbr.cam.eps import Eps, at_positions
from fbr.losses.saliency import explicit_pseudo_pixels
from fbr.positions import Positions
from tests.unit.cam.stand_in import Backbone, batch

CLASSES = 3


@pytest.fixture
def eps():
    torch.manual_seed(0)
    return Eps(Backbone(), CLASSES, Eps.Options(threshold=0.4, balance=0.5))


def test_losses_are_of_classes_and_of_all_channels(eps):
    given = batch(2, CLASSES)
    features = eps.backbone(given["image"])[-1]
    logits = eps.classify(features)
    assert logits.shape == (2, 1 + CLASSES, 8, 8)
    found = eps(given)
    scores = logits.mean((2, 3))[:, 1:]
    expected = F.binary_cross_entropy_with_logits(scores, given["label"])
    assert found["classification"].item() == pytest.approx(expected.item(), rel=1e-5)
    near = given["saliency"][:, ::4, ::4] / 255
    expected = explicit_pseudo_pixels(logits.softmax(1), near, given["label"], 0.4, 0.5)
    assert found["saliency"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("side", "stride"), [(225, 16), (33, 4), (96, 8), (1, 8)])
def test_saliency_is_read_at_the_pixels_of_positions(side, stride):
    image, count = torch.arange(side).expand(1, side, side), -(-side // stride)
    found = 255 * at_positions(image, (count, count), Positions(stride))[0, 0]
    assert found.round().tolist() == list(range(0, side, stride))


def test_maps_are_the_classes_of_a_softmax_with_the_background(eps):
    given = batch(2, CLASSES)
    logits = eps.classify(eps.backbone(given["image"])[-1])
    maps = eps.maps(given["image"])
    assert maps.shape == (2, CLASSES, 8, 8)
    torch.testing.assert_close(maps, logits.softmax(1)[:, 1:])


class Itself(torch.nn.Module):
    def forward(self, images):
        return [images]


def test_maps_of_four_by_four_by_hand(eps):
    """One feature is the class 2, one the background: what the map of each pixel must be."""
    eps.backbone = Itself()
    eps.classify = torch.nn.Conv2d(3, 1 + CLASSES, 1, bias=False)
    weight = torch.zeros(1 + CLASSES, 3, 1, 1)
    weight[2, 0], weight[0, 1] = 50.0, 50.0
    eps.classify.weight.data = weight
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0, :2] = 1
    images[0, 1, 2:] = 1
    images[0, :, 3, 3] = 0  # nothing there: all channels alike
    maps = eps.maps(images)
    expected = torch.zeros(1, CLASSES, 4, 4)
    expected[0, 1, :2] = 1
    expected[0, :, 3, 3] = 1 / (1 + CLASSES)
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=0)


def test_it_says_that_it_needs_saliency(eps):
    assert eps.saliency
    with pytest.raises(KeyError, match="saliency"):
        eps({name: part for name, part in batch(2, CLASSES).items() if name != "saliency"})
