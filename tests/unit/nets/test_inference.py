"""Several scales and flips of one image, against the same thing written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fbr.nets.inference import multi_scale
from fbr.nets.inputs import normalise

CPU = torch.device("cpu")
IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)


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
    maps = multi_scale(leaning, IMAGE, scales, flip, size, CPU, bfloat16=False)
    assert maps.shape == (3, *size)
    assert torch.allclose(maps, written_out(leaning, IMAGE, scales, flip, size), atol=1e-5)


def test_scale_one_is_the_network_itself():
    maps = multi_scale(lambda x: x, IMAGE, [1.0], False, (12, 17), CPU, False)
    assert torch.equal(maps, normalise(torch.from_numpy(IMAGE)[None])[0])


def test_the_mirror_image_has_the_mirrored_maps():
    mirrored = np.ascontiguousarray(IMAGE[:, ::-1])
    one, other = (
        multi_scale(leaning, image, [1.0, 1.5], True, (12, 17), CPU, bfloat16=False)
        for image in (IMAGE, mirrored)
    )
    assert torch.allclose(one.flip(-1), other, atol=1e-5)


def test_a_pixel_is_an_image():
    pixel = np.full((1, 1, 3), 9, np.uint8)
    maps = multi_scale(lambda x: x, pixel, [0.25, 1.0, 3.0], True, (2, 2), CPU, False)
    assert torch.allclose(maps, normalise(torch.from_numpy(pixel)[None])[0].expand(3, 2, 2))


def test_the_network_sees_both_sides_at_once_in_bfloat16():
    seen = []

    def network(images):
        seen.append((images.shape[0], images.is_contiguous(memory_format=torch.channels_last)))
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        return images.bfloat16()

    maps = multi_scale(network, IMAGE, [1.0, 2.0], True, (4, 4), CPU, True)
    assert seen == [(2, True)] * 2
    assert maps.dtype == torch.float32
