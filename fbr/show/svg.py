"""The few SVG elements that charts are made of, safe for any text and at home in light and dark."""

from html import escape

from fbr.show.palette import theme_css

FONT_SIZE = 13
# Mean width of a character, in font sizes: text is not measured, so boxes leave a little room.
_CHARACTER = 0.56

_STYLE = theme_css(".fbr") + (
    f".fbr text{{font:{FONT_SIZE}px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',"
    "sans-serif;fill:var(--ink);font-variant-numeric:tabular-nums}"
    ".fbr .title{font-size:15px;font-weight:600}"
    ".fbr .soft{fill:var(--soft);font-size:12px}"
    ".fbr .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}"
    ".fbr .name{font-weight:600}"
    ".fbr .grid{stroke:var(--grid);stroke-width:1}"
    ".fbr .axis{stroke:var(--soft);stroke-width:1}"
    ".fbr .mark{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:4 3}"
    ".fbr .box{fill:var(--box);stroke:var(--rule);stroke-width:1}"
    ".fbr .edge{fill:none;stroke:var(--soft);stroke-width:1.5}"
    ".fbr .tip{fill:var(--soft)}"
    ".fbr .curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".fbr .whisker{stroke:var(--ink);stroke-width:1.25}"
)


def clean(text: str) -> str:
    """Escape text for XML; what cannot be printed, line ends included, becomes a space."""
    return escape("".join(letter if letter.isprintable() else " " for letter in text))


def number(value: float) -> str:
    """Write a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0:g}"


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Draw one line of text with its baseline at y."""
    return (
        f'<text x="{number(x)}" y="{number(y)}" class="{style}" text-anchor="{anchor}">'
        f"{clean(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Draw a straight line."""
    return (
        f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" '
        f'class="{style}"/>'
    )


def text_width(words: str, size: float = FONT_SIZE) -> float:
    """Estimate how wide a text will be."""
    return len(words) * size * _CHARACTER


def shortened(words: str, width: float, size: float = FONT_SIZE) -> str:
    """Cut a text to an estimated width, with an ellipsis where something was cut."""
    room = max(1, int(width / (size * _CHARACTER)))
    return words if len(words) <= room else words[: room - 1].rstrip() + "…"


def frame(width: float, height: float, title: str, parts: list[str]) -> str:
    """Wrap drawn parts into one labelled picture that scales with its container."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fbr" role="img" '
        f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" '
        f'height="{number(height)}" aria-label="{clean(title)}"><title>{clean(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>"
    )
