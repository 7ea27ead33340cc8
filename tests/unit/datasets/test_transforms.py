"""One geometry for an image and what lies over it, against a literal twin."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from fbr.datasets.transforms import (
    BILINEAR,
    CHANGES,
    NEAREST,
    Colours,
    Geometry,
    RandomColours,
    RandomGeometry,
    RandomShift,
    scaled,
)
from tests.reference import transforms as reference

PADDING = np.array([124, 116, 104], np.uint8)


def picture(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (height, width, *channels), np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "top", "left", "crop"),
    [
        ((7, 9), 0, 0, 7),
        ((7, 9), 1, 3, 4),
        ((7, 9), -2, 1, 8),
        ((7, 9), -5, -3, 16),
        ((3, 40), -6, 13, 11),
        ((1, 1), 0, 0, 1),
        ((1, 1), -3, -2, 5),
        ((5, 5), 4, 4, 1),
    ],
)
def test_crop_flip_and_padding_are_the_twins(size, top, left, crop, flip):
    geometry = Geometry(1.0, top, left, crop, flip)
    image, mask = picture(*size, 3), picture(*size)
    for array, resample, fill in ((image, BILINEAR, PADDING), (mask, NEAREST, 255)):
        cut = geometry.apply(array, resample, fill)
        assert np.array_equal(cut, reference.cut(array, top, left, crop, flip, fill))
        assert cut.flags.c_contiguous
        assert cut.dtype == np.uint8


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "scale", "top", "left", "crop"),
    [
        ((20, 30), 2.0, 7, 11, 24),
        ((20, 30), 0.5, 1, 2, 8),
        ((21, 33), 1.37, -3, 5, 40),
        ((33, 21), 0.61, -6, -9, 32),
        ((1, 50), 0.3, -4, 0, 9),
        ((3, 3), 0.1, -2, -2, 5),
    ],
)
def test_a_crop_of_the_source_is_the_crop_of_the_resized(size, scale, top, left, crop, flip):
    geometry = Geometry(scale, top, left, crop, flip)
    tall, wide = scaled(*size, scale)
    for array, resample, fill in (
        (picture(*size, 3), BILINEAR, PADDING),
        (picture(*size), NEAREST, 255),
    ):
        whole = np.asarray(Image.fromarray(array).resize((wide, tall), resample))
        expected = reference.cut(whole, top, left, crop, flip, fill).astype(int)
        # Pillow rounds after each direction.
        most = 1 if resample == BILINEAR else 0
        assert np.abs(geometry.apply(array, resample, fill) - expected).max() <= most


@pytest.mark.parametrize("seed", range(20))
def test_image_and_mask_stay_aligned(seed):
    """A disc painted alike into both lies on the same pixels of both afterwards."""
    y, x = np.mgrid[:61, :83]
    disc = (y - 30) ** 2 + (x - 37) ** 2 < 400
    mask = np.where(disc, 3, 0).astype(np.uint8)
    image = np.where(disc[..., None], 255, 0).astype(np.uint8).repeat(3, -1)
    rng = np.random.default_rng(seed)
    geometry = RandomGeometry(48, (0.5, 2.0), None, True).draw(rng, 61, 83)
    seen = geometry.apply(image, BILINEAR, np.zeros(3, np.uint8))[..., 0] > 127
    said = geometry.apply(mask, NEAREST, 255) == 3
    differ = seen != said
    inside = np.pad(said, 1, mode="edge")
    edge = np.stack([np.roll(inside, by, axis)[1:-1, 1:-1] for by in (-1, 1) for axis in (0, 1)])
    assert not differ[(edge == said).all(0)].any()
    assert differ.mean() < 0.02


def test_padding_is_void_where_the_image_is_padded():
    geometry = Geometry(1.3, -5, -7, 64, True)
    image, mask = np.zeros((20, 25, 3), np.uint8), np.zeros((20, 25), np.uint8)
    padded = (geometry.apply(image, BILINEAR, PADDING) == PADDING).all(-1)
    assert np.array_equal(padded, geometry.apply(mask, NEAREST, 255) == 255)
    assert (~padded).sum() == 26 * 32


@pytest.mark.parametrize(
    ("scale", "long_side", "sizes"),
    [((0.5, 2.0), None, (0.5 * 50, 2.0 * 50)), (None, (32.0, 48.0), (32, 48))],
)
def test_draws_stay_within_the_recipe(scale, long_side, sizes):
    recipe = RandomGeometry(24, scale, long_side, True)
    rng = np.random.default_rng(0)
    drawn = [recipe.draw(rng, 30, 50) for _ in range(300)]
    longer = [scaled(30, 50, g.scale)[1] for g in drawn]
    assert sizes[0] <= min(longer) < sizes[0] + 2
    assert sizes[1] - 2 < max(longer) <= sizes[1]
    assert 100 < sum(g.flip for g in drawn) < 200
    for g in drawn:
        for first, side in (
            (g.top, scaled(30, 50, g.scale)[0]),
            (g.left, scaled(30, 50, g.scale)[1]),
        ):
            # Inside of the image, or the whole image inside of the crop.
            assert min(0, side - 24) <= first <= max(0, side - 24)


def test_scales_of_a_list_are_drawn_alike_and_no_others():
    recipe = RandomGeometry(24, [0.5, 1.0, 1.75], None, False)
    rng = np.random.default_rng(0)
    drawn = [recipe.draw(rng, 30, 50).scale for _ in range(600)]
    counts = [drawn.count(scale) for scale in recipe.scale]
    assert sum(counts) == 600
    assert chisquare(counts).pvalue > 0.01


def test_every_place_of_a_crop_is_drawn():
    recipe = RandomGeometry(4, (1.0, 1.0), None, False)
    rng = np.random.default_rng(0)
    drawn = [recipe.draw(rng, 6, 2) for _ in range(200)]
    assert {g.top for g in drawn} == {0, 1, 2}
    assert {g.left for g in drawn} == {-2, -1, 0}
    assert not any(g.flip for g in drawn)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((10, 21), 0.5, (5, 10)), ((3, 5), 0.01, (1, 1)), ((7, 9), 1.0, (7, 9))],
)
def test_scaled_leaves_a_pixel_at_least(size, scale, expected):
    assert scaled(*size, scale) == expected


def assert_recoloured(image: np.ndarray, change: str, by: float) -> None:
    found = Colours(((change, by),)).apply(image)
    expected = reference.recoloured(image, change, by)
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    apart = np.abs(found.astype(int) - expected)
    # Where a hue lies on a step, Pillow's single precision may take the one beside it.
    assert np.mean(apart <= 1) > 0.99
    assert apart.max() <= (7 if change == "hue" else 1)


@pytest.mark.parametrize("by", [0.0, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_factors_of_colours_are_the_twins(change, by):
    assert_recoloured(picture(9, 7, 3), change, by)


@pytest.mark.parametrize("by", [-0.5, -0.1, 0.0, 0.03, 0.1])
def test_a_turn_of_the_hue_is_the_twins(by):
    assert_recoloured(picture(9, 7, 3), "hue", by)
    for colour in ([255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90], [0, 0, 0]):
        assert_recoloured(np.full((1, 1, 3), colour, np.uint8), "hue", by)


def test_a_third_of_the_circle_makes_red_green():
    red = np.full((2, 3, 3), [200, 0, 0], np.uint8)
    assert Colours((("hue", 1 / 3),)).apply(red).tolist() == [[[0, 200, 0]] * 3] * 2


def test_changes_follow_one_another():
    image, steps = picture(9, 7, 3), (("contrast", 1.3), ("brightness", 0.8), ("hue", 0.1))
    one_by_one = image
    for step in steps:
        one_by_one = Colours((step,)).apply(one_by_one)
    assert np.array_equal(Colours(steps).apply(image), one_by_one)
    assert np.array_equal(Colours(()).apply(image), image)


def test_drawn_colours_are_within_bounds_in_any_order_and_repeat():
    limits = {"brightness": 0.3, "contrast": 0.2, "saturation": 1.0, "hue": 0.1}
    rng = np.random.default_rng(0)
    drawn = [RandomColours(**limits).draw(rng).changes for _ in range(400)]
    for name, limit in limits.items():
        middle = 0 if name == "hue" else 1
        values = np.array([dict(changes)[name] for changes in drawn])
        assert np.abs(values - middle).max() <= limit
        assert values.std() == pytest.approx(limit / 3**0.5, rel=0.1)
    assert len({tuple(name for name, _ in changes) for changes in drawn}) == 24
    assert all(changes[0][0] in CHANGES for changes in drawn)
    again = RandomColours(**limits).draw(np.random.default_rng(0)).changes
    assert again == drawn[0]


def test_levels_of_hsv_are_added_and_bounded():
    def shifted(colour, *by):
        return Colours((("shift", by),)).apply(np.array([[colour]], np.uint8))[0, 0].tolist()

    assert shifted([200, 0, 0], 60, 0, 0) == [0, 200, 0]  # a third of 180 around the circle
    assert shifted([200, 0, 0], -60, 0, 0) == [0, 0, 200]
    assert shifted([200, 200, 200], 0, 0, 30) == [230, 230, 230]
    assert shifted([250, 250, 250], 0, 0, 30) == [255, 255, 255]
    assert shifted([5, 5, 5], 0, 0, -30) == [0, 0, 0]
    assert shifted([200, 0, 0], 0, -255, 0) == [200, 200, 200]
    image = picture(9, 7, 3)
    same = Colours((("shift", (0, 0, 0)),)).apply(image)
    assert np.abs(same.astype(int) - image).max() <= 6  # HSV has fewer colours


def test_drawn_levels_reach_their_bounds_and_repeat():
    rng = np.random.default_rng(0)
    (names, drawn) = zip(*(RandomShift(2).draw(rng).changes[0] for _ in range(300)), strict=True)
    assert set(names) == {"shift"}
    assert {levels for by in drawn for levels in by} == {-2, -1, 0, 1, 2}
    assert len(set(drawn)) > 100  # of 125: each of the three on its own
    assert RandomShift(2).draw(np.random.default_rng(0)).changes[0][1] == drawn[0]
