"""Overlays keep sizes and types, blend exactly at the ends, and count mistakes by hand."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from fbr.show import overlays
from fbr.show.palette import PALETTE

KINDS = list(overlays.ERROR_COLOURS)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (13, 17), (40, 40)])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_heat_takes_any_map_size(image, size, kind):
    out = overlays.heat(image, np.full(size, 0.5, kind))
    assert out.shape == image.shape
    assert out.dtype == np.uint8


def test_heat_at_the_ends_of_alpha(image):
    cam = np.random.default_rng(1).random(image.shape[:2])
    np.testing.assert_array_equal(overlays.heat(image, cam, 0), image)
    np.testing.assert_array_equal(
        overlays.heat(image, cam, 1), overlays.heat(np.zeros_like(image), cam, 1)
    )


def test_heat_grows_lighter_with_the_map():
    ramp = np.linspace(0, 1, 256)[None]
    heat = overlays.heat(np.zeros((1, 256, 3), np.uint8), ramp, 1)[0]
    lightness = heat @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) >= -0.5).all()
    assert lightness[-1] - lightness[0] > 200


def test_heat_clips_and_takes_nan_for_nothing(image):
    def flat(value):
        return overlays.heat(image, np.full(image.shape[:2], value))

    np.testing.assert_array_equal(flat(7.0), flat(1.0))
    np.testing.assert_array_equal(flat(-7.0), flat(0.0))
    np.testing.assert_array_equal(flat(np.nan), flat(0.0))


def test_overlay_leaves_background_and_the_input_alone(image):
    before = image.copy()
    out = overlays.mask_overlay(image, np.zeros(image.shape[:2], np.uint8))
    np.testing.assert_array_equal(out, image)
    assert out is not image
    np.testing.assert_array_equal(image, before)


def test_overlay_paints_inside_and_lines_the_border(image):
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[2:10, 3:12] = 4
    out = overlays.mask_overlay(image, mask, alpha=1)
    assert (out[3:9, 4:11] == PALETTE[4]).all()
    ring = out[2, 3:12]
    assert (ring == ring[0]).all()
    assert (ring[0] > PALETTE[4]).all()
    np.testing.assert_array_equal(out[mask == 0], image[mask == 0])


def test_overlay_of_void_is_hatched_not_filled():
    image = np.zeros((64, 64, 3), np.uint8)
    out = overlays.mask_overlay(image, np.full((64, 64), 255, np.uint8))
    shares = [(out.max(axis=2) == value).mean() for value in np.unique(out)]
    assert shares == pytest.approx([0.75, 0.25])
    assert out[..., 0].max() > 180


def test_overlay_of_one_pixel():
    out = overlays.mask_overlay(np.zeros((1, 1, 3), np.uint8), np.array([[3]]))
    assert out.shape == (1, 1, 3)


def test_error_kinds_by_hand():
    pred = np.array([[0, 1, 1, 0], [1, 2, 2, 2], [0, 0, 1, 255], [2, 1, 255, 0]], np.uint8)
    target = np.array([[0, 1, 0, 1], [1, 1, 2, 0], [255, 0, 255, 1], [2, 2, 0, 0]], np.uint8)
    counts = np.bincount(overlays.error_kinds(pred, target).ravel(), minlength=len(KINDS))
    assert dict(zip(KINDS, counts.tolist(), strict=True)) == {
        "true background": 3,
        "true positive": 4,
        "false positive": 2,
        "false negative": 1,
        "wrong class": 2,
        "void": 4,
    }


def literal_kind(pred: int, target: int) -> str:
    if pred == 255 or target == 255:
        return "void"
    if pred == target:
        return "true positive" if target else "true background"
    if target == 0:
        return "false positive"
    return "wrong class" if pred else "false negative"


def test_error_map_shows_every_pair_in_its_colour():
    pairs = np.array(list(itertools.product([0, 1, 2, 255], repeat=2)), np.uint8)
    out = overlays.error_map(pairs[:, :1], pairs[:, 1:])
    expected = [[overlays.ERROR_COLOURS[literal_kind(*pair)]] for pair in pairs.tolist()]
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("draw", [overlays.error_map, overlays.mask_overlay])
def test_sizes_must_agree(draw):
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        draw(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_panel_sets_pictures_side_by_side(image):
    red = np.full((30, 60, 3), (255, 0, 0), np.uint8)
    blue = np.full((90, 30, 3), (0, 0, 255), np.uint8)
    out = overlays.panel([("a long title that must be cut", red), ("b", blue)], height=90)
    is_red, is_blue = ((out == colour).all(axis=2) for colour in ([255, 0, 0], [0, 0, 255]))
    assert is_red.sum() == 90 * 180
    assert is_blue.sum() == 90 * 30
    assert np.nonzero(is_red)[1].max() < np.nonzero(is_blue)[1].min()
    assert (out[: out.shape[0] - 94].max(axis=2) > 150).any()


def test_panel_cuts_a_title_to_its_picture():
    tile = np.zeros((90, 60, 3), np.uint8)
    long = overlays.panel([("w" * 200, tile), ("", tile)], height=90)
    second_strip = long[:20, 72:]
    assert (second_strip == second_strip[0, 0]).all()


def test_panel_needs_a_picture():
    with pytest.raises(ValueError, match="at least one"):
        overlays.panel([])


def test_png_is_lossless_and_bytes_repeat(image):
    encoded = overlays.to_png_bytes(image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), image)
    assert encoded == overlays.to_png_bytes(image.copy())


def test_jpeg_is_near_and_bytes_repeat():
    smooth = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (1, 64, 3))
    encoded = overlays.to_jpeg_bytes(smooth)
    decoded = np.asarray(Image.open(io.BytesIO(encoded))).astype(int)
    assert abs(decoded - smooth).max() < 12
    assert encoded == overlays.to_jpeg_bytes(smooth.copy())
    assert len(encoded) < len(overlays.to_jpeg_bytes(smooth, quality=100))
