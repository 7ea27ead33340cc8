"""Maps that follow colours, against one neighbour at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fbr.masks.neighbours import follow_colours
from fbr.positions import Positions
from tests.reference import neighbours as twin


def given(batch=2, classes=3, height=5, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, classes, height, width, generator=generator)
    return maps, torch.randn(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6), (4, 4)])
@pytest.mark.parametrize(("steps", "dilations"), [(0, [1]), (1, [1]), (3, [1, 2, 4])])
def test_it_is_the_mean_over_like_neighbours(size, steps, dilations):
    maps, images = given(2, 3, *size)
    found = follow_colours(maps, images, steps, dilations, 0.3)
    for image, colours, here in zip(maps, images, found, strict=True):
        expected = twin.follow_colours(image.numpy(), colours.numpy(), steps, dilations, 0.3)
        np.testing.assert_allclose(here.numpy(), expected, atol=1e-5)


def test_a_map_stops_where_the_colour_ends():
    images = torch.zeros(1, 3, 8, 8)
    images[..., 4:] = 1
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 3, 1] = 1
    found = follow_colours(maps, images, 20, [1, 2], 0.3)[0, 0]
    assert found[:, :4].sum() > 100 * found[:, 4:].sum()
    assert found[7, 0] > 0


def test_colours_are_those_around_positions():
    """Positions every 8 pixels from 0; the colour ends between the second and the third."""
    images = torch.zeros(1, 3, 8, 40)
    images[..., 9:] = 1
    maps = torch.tensor([1.0, 1, 0, 0, 0]).view(1, 1, 1, 5)
    found = follow_colours(maps, images, 5, [1], 0.1, positions=Positions(8))
    torch.testing.assert_close(found, maps, atol=1e-3, rtol=0)
    assert (follow_colours(maps, images, 5, [1], 0.1) - maps).abs().max() > 0.1


def test_values_stay_between_the_least_and_the_most():
    maps, images = given()
    found = follow_colours(maps, images, 5, [1, 2], 0.3)
    assert found.min() >= maps.min() - 1e-6
    assert found.max() <= maps.max() + 1e-6


def test_an_image_of_one_colour_is_blurred_and_not_nan():
    maps, _ = given()
    found = follow_colours(maps, torch.zeros(2, 3, 10, 14), 2, [1], 0.3)
    assert found.isfinite().all()
    assert found.std() < maps.std()


def test_a_finer_grid_comes_back_to_the_size_of_the_maps():
    maps, images = given()
    images = F.interpolate(images, (35, 49))
    found = follow_colours(maps, images, 0, [1], 0.3, finer=4)
    assert found.shape == maps.shape
    assert (found - maps).abs().max() < 0.5  # up and down again, nothing between
    constant = torch.full_like(maps, 0.25)
    torch.testing.assert_close(follow_colours(constant, images, 3, [1, 2], 0.3, 2), constant)
