"""The palette is VOC's, and every text and curve of the theme can be read on its paper."""

import numpy as np
import pytest

from fbr.show import palette


def literal_colour(number: int) -> tuple[int, int, int]:
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (number & 1) << shift
        green |= (number >> 1 & 1) << shift
        blue |= (number >> 2 & 1) << shift
        number >>= 3
    return red, green, blue


def luminance(colour: str) -> float:
    values = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_first_entries_are_those_of_voc():
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [tuple(row) for row in palette.PALETTE[:6].tolist()] == expected
    assert tuple(palette.PALETTE[20].tolist()) == (0, 64, 128)
    assert tuple(palette.PALETTE[255].tolist()) == (224, 224, 192)


def test_every_entry_equals_the_literal_twin():
    assert palette.PALETTE.dtype == np.uint8
    assert palette.PALETTE.tolist() == [list(literal_colour(number)) for number in range(256)]


def test_colours_are_named_from_background_on():
    named = palette.name_colours(["background", "boat", "train"])
    assert named == {"background": "#000000", "boat": "#800000", "train": "#008000"}


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "box"])
def test_theme_is_readable(theme, ground):
    for name in ("ink", "soft", "link"):
        assert contrast(theme[name], theme[ground]) >= 4.5, name
    for number in range(palette.SERIES_COLOURS):
        assert contrast(theme[f"c{number}"], theme[ground]) >= 3, number


def test_both_themes_set_the_same_variables():
    assert list(palette.LIGHT) == list(palette.DARK)
    css = palette.theme_css(".x")
    assert css.count("--ink:") == 2
    assert css.count("{") == css.count("}")
