"""Scales, flips and windows of images, against the same things written out."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fbr.nets import backbones
from fbr.nets.heads import FullSize, Segmenter
from fbr.nets.inference import Looks, Windowed, multi_scale, several, starts
from fbr.nets.inputs import normalise
from fbr.positions import Positions
from tests.reference import positions as twin

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 17, 3), np.uint8)


def leaning(images: torch.Tensor) -> torch.Tensor:
    """A network that knows left from right: each place sees its left neighbour; stride 2."""
    return F.avg_pool2d(F.pad(images, (1, 0, 0, 0))[..., :-1], 2, ceil_mode=True)


def written_out(network, image, scales, flip, size):
    whole = normalise(torch.from_numpy(image)[None])
    found = []
    for scale in scales:
        target = [max(1, round(side * scale)) for side in image.shape[:2]]
        resized = F.interpolate(whole, target, mode="bilinear", align_corners=False)
        maps = [network(resized)]
        if flip:
            maps.append(network(resized.flip(-1)))
        maps = [F.interpolate(m, size, mode="bilinear", align_corners=False)[0] for m in maps]
        if flip:
            maps[1] = maps[1].flip(-1)
        found.append(sum(maps) / len(maps))
    return sum(found) / len(found)


@pytest.mark.parametrize("scales", [[1.0], [0.5], [1.0, 0.5, 1.5, 2.0]])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(12, 17), (3, 5), (1, 1)])
def test_is_the_same_written_out(scales, flip, size):
    maps = multi_scale(leaning, IMAGES, scales, flip, size, CPU, bfloat16=False)
    assert maps.shape == (2, 3, *size)
    for image, found in zip(IMAGES, maps, strict=True):
        expected = written_out(leaning, image, scales, flip, size)
        assert torch.allclose(found, expected, atol=1e-5)


def test_scale_one_is_the_network_itself():
    maps = multi_scale(lambda x: x, IMAGES, [1.0], False, (12, 17), CPU, False)
    assert torch.equal(maps, normalise(torch.from_numpy(IMAGES)))


def test_the_mirror_image_has_the_mirrored_maps():
    mirrored = np.ascontiguousarray(IMAGES[:, :, ::-1])
    one, other = (
        multi_scale(leaning, images, [1.0, 1.5], True, (12, 17), CPU, bfloat16=False)
        for images in (IMAGES, mirrored)
    )
    assert torch.allclose(one.flip(-1), other, atol=1e-5)


def test_a_pixel_is_an_image():
    pixel = np.full((1, 1, 1, 3), 9, np.uint8)
    maps = multi_scale(lambda x: x, pixel, [0.25, 1.0, 3.0], True, (2, 2), CPU, False)
    assert torch.allclose(maps, normalise(torch.from_numpy(pixel)).expand(1, 3, 2, 2))


def test_the_network_sees_both_sides_at_once_in_bfloat16(monkeypatch):
    monkeypatch.setattr("fbr.nets.precision.has_bfloat16", lambda kind: True)
    seen = []

    def network(images):
        seen.append((images.shape[0], images.is_contiguous(memory_format=torch.channels_last)))
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        return images.bfloat16()

    maps = multi_scale(network, IMAGES, [1.0, 2.0], True, (4, 4), CPU, True)
    assert seen == [(4, True)] * 2
    assert maps.dtype == torch.float32


def test_several_ways_are_each_its_own_and_share_their_looks():
    ways = [Looks([1.0], False), Looks([0.5, 1.0, 1.5], True), Looks([1.5, 0.5], False)]
    seen = []

    def network(images):
        seen.append(tuple(images.shape))
        return leaning(images)

    found = several(network, IMAGES, ways, (12, 17), CPU, False)
    assert sorted(seen) == [(4, 3, 6, 8), (4, 3, 12, 17), (4, 3, 18, 26)]
    for way, maps in zip(ways, found, strict=True):
        for image, mine in zip(IMAGES, maps, strict=True):
            exact = written_out(leaning, image, way.scales, way.flip, (12, 17))
            assert torch.allclose(mine, exact, atol=1e-5)


def blurred(images: torch.Tensor) -> torch.Tensor:
    """A network that knows where an image ends."""
    return F.avg_pool2d(images, 3, 1, 1)


@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5, 1.5]])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("finish", [None, partial(torch.softmax, dim=1)])
def test_maps_are_drawn_by_their_positions_and_finished_one_by_one(scales, flip, finish):
    def network(images):
        return leaning(images)[..., ::2, ::2]

    own, size = Positions(4, 0.5), (6, 9)
    (found,) = several(network, IMAGES, [Looks(scales, flip)], size, CPU, False, own, finish)
    whole, expected = normalise(torch.from_numpy(IMAGES)), 0
    for scale in scales:
        view = tuple(max(1, round(side * scale)) for side in (12, 17))
        seen = F.interpolate(whole, view, mode="bilinear", align_corners=False)
        for mirrored in (False, True)[: 1 + flip]:
            maps = network(seen.flip(3) if mirrored else seen)
            maps = twin.drawn(maps, view, size, own, mirrored)
            expected = expected + (finish(maps) if finish else maps)
    expected = expected / len(scales) / (1 + flip)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "side", "overlap", "found"),
    [
        (5, 5, 0.5, [0]),
        (6, 5, 0.0, [0, 1]),
        (10, 5, 0.0, [0, 5]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (3, 1, 0.9, [0, 1, 2]),
    ],
)
def test_windows_begin_evenly(length, side, overlap, found):
    assert starts(length, side, overlap) == found


@pytest.mark.parametrize("length", [7, 23, 100])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.8])
def test_windows_cover_all_and_overlap_enough(length, overlap):
    begin = starts(length, 7, overlap)
    assert (begin[0], begin[-1]) == (0, length - 7)
    steps = np.diff(begin)
    assert (steps > 0).all()
    assert (steps <= max(1, 7 * (1 - overlap)) + 1).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (9, 9), (13, 17)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_are_averaged_where_they_meet(size, overlap):
    torch.manual_seed(0)
    images = torch.randn(2, 3, *size)
    tall, wide = min(9, size[0]), min(9, size[1])
    total, seen = torch.zeros(2, 3, *size), torch.zeros(size)
    for top in starts(size[0], tall, overlap):
        for left in starts(size[1], wide, overlap):
            crop = images[:, :, top : top + tall, left : left + wide]
            total[:, :, top : top + tall, left : left + wide] += blurred(crop)
            seen[top : top + tall, left : left + wide] += 1
    assert torch.allclose(Windowed(blurred, 9, overlap)(images), total / seen, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 50), (33, 41)])
def test_images_of_any_size_are_predicted_in_all_ways(size):
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 4, [1]).eval()
    probable = torch.nn.Sequential(FullSize(network), torch.nn.Softmax(1))
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    for applied in (probable, Windowed(probable, 24, 0.5)):
        maps = multi_scale(applied, images, [0.5, 1.0, 1.75], True, size, CPU, False)
        assert maps.shape == (2, 4, *size)
        assert torch.allclose(maps.sum(1), torch.ones(2, *size), atol=1e-5)
