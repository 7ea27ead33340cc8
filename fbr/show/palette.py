"""Every colour the project shows: the PASCAL VOC map of class ids, and the light and dark theme."""

from collections.abc import Sequence

from fbr.files.pictures import voc_palette

VOID = 255


PALETTE = voc_palette()


def name_colours(names: Sequence[str]) -> dict[str, str]:
    """Map class names, listed by id from background on, to their palette colour as `#rrggbb`."""
    return {name: css_colour(PALETTE[number]) for number, name in enumerate(names)}


def css_colour(rgb: Sequence[int]) -> str:
    """Write one colour (3 values in 0..255) as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*(int(value) for value in rgb))


# ink: text, soft: secondary text, rule: borders, grid: chart grid, paper: page, box: raised
# surface, c0..c7: chart series. Against paper and box, text keeps 4.5:1 and series keep 3:1.
LIGHT = {
    "ink": "#1b1f27",
    "soft": "#565e6c",
    "rule": "#c9ced6",
    "grid": "#e4e7ec",
    "paper": "#ffffff",
    "box": "#f5f6f8",
    "link": "#1d56b0",
    "c0": "#2463b4",
    "c1": "#c4500f",
    "c2": "#1c7c4c",
    "c3": "#9236a4",
    "c4": "#a66a00",
    "c5": "#c02a51",
    "c6": "#0f7a86",
    "c7": "#6b6152",
}
DARK = {
    "ink": "#e7eaf0",
    "soft": "#a2abba",
    "rule": "#414957",
    "grid": "#2b313b",
    "paper": "#13161b",
    "box": "#1c2027",
    "link": "#84b4ff",
    "c0": "#6fa8f5",
    "c1": "#f59358",
    "c2": "#5cc48d",
    "c3": "#d18be0",
    "c4": "#e0b04a",
    "c5": "#f2809c",
    "c6": "#55c3cf",
    "c7": "#b9ad9a",
}
SERIES_COLOURS = sum(name[0] == "c" for name in LIGHT)


def theme_css(selector: str) -> str:
    """Return CSS that sets the theme's variables on `selector`, as the reader's system asks."""
    light, dark = (
        "".join(f"--{name}:{colour};" for name, colour in theme.items()) for theme in (LIGHT, DARK)
    )
    return f"{selector}{{{light}}}@media(prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
