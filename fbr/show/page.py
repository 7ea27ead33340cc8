"""The report of a study: one HTML file that needs nothing else, for any screen, by day or night."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

from PIL import Image

from fbr.show.palette import theme_css
from fbr.show.tables import Table, html_table


@dataclass(frozen=True)
class Text:
    """Paragraphs parted by empty lines; or, `verbatim`, lines kept as they are."""

    words: str
    verbatim: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file's bytes; `legend` are (name, CSS colour) pairs shown under it."""

    encoded: bytes
    caption: str = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Chart:
    """An SVG drawing made by `fbr.show.plots`; it is put into the page as it is."""

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class KeyValues:
    """Facts as (name, value) pairs."""

    pairs: tuple[tuple[str, str], ...]
    caption: str = ""


Block = Table | Picture | Chart | Text | KeyValues


@dataclass(frozen=True)
class Section:
    """Blocks under a title; `folded` shows only the title until the reader opens it."""

    title: str
    intro: str = ""
    blocks: tuple[Block, ...] = field(default=())
    folded: bool = False


@dataclass(frozen=True)
class Report:
    """A title and sections, in reading order: the score table belongs in the first."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def page(report: Report) -> str:
    """Write a report as one self-contained HTML document, the same bytes for the same report."""
    contents = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(report.sections)
    )
    body = "".join(_section(number, section) for number, section in enumerate(report.sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n<body><header>"
        f"<h1>{escape(report.title)}</h1><p>{escape(report.subtitle)}</p>"
        f'<nav aria-label="Contents">{contents}</nav></header>\n<main>{body}</main></body></html>\n'
    )


def _section(number: int, section: Section) -> str:
    title = f"<h2>{escape(section.title)}</h2>"
    intro = _text(Text(section.intro)) if section.intro else ""
    blocks = "".join(map(_block, section.blocks))
    inside = f'{intro}<div class="blocks">{blocks}</div>'
    if section.folded:
        inside = f"<details><summary>{title}</summary>{inside}</details>"
    else:
        inside = title + inside
    return f'<section id="s{number}">{inside}</section>\n'


def _block(block: Block) -> str:
    match block:
        case Table():
            return html_table(block)
        case Picture():
            return _picture(block)
        case Chart():
            return f"<figure>{block.svg}{_caption(block.caption)}</figure>"
        case Text():
            return f'<div class="full">{_text(block)}</div>'
        case KeyValues():
            return _facts(block.pairs, block.caption)
    raise TypeError(f"a {type(block).__name__} is no block of a page")


def _text(text: Text) -> str:
    if text.verbatim:
        return f'<pre class="scroll" tabindex="0">{escape(text.words)}</pre>'
    return "".join(f"<p>{escape(part)}</p>" for part in text.words.split("\n\n") if part.strip())


def _picture(picture: Picture) -> str:
    with Image.open(BytesIO(picture.encoded)) as image:
        (width, height), kind = image.size, image.get_format_mimetype()
    data = base64.b64encode(picture.encoded).decode()
    names = "".join(
        f'<span><i style="background:{escape(colour)}"></i>{escape(name)}</span>'
        for name, colour in picture.legend
    )
    # A row of pictures would shrink to stamps on a phone: it keeps a readable size and scrolls.
    wide = width > 2 * height
    return (
        f'<figure{" class=full" if wide else ""}><div class="scroll{" wide" if wide else ""}">'
        f'<img src="data:{kind};base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(picture.caption)}"></div>'
        + (f'<div class="legend">{names}</div>' if names else "")
        + f"{_caption(picture.caption)}</figure>"
    )


def _facts(pairs: Sequence[tuple[str, str]], caption: str) -> str:
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs)
    return f"<figure><dl>{items}</dl>{_caption(caption)}</figure>"


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""


_STYLE = (
    theme_css(":root")
    + """
*{box-sizing:border-box}
html{color-scheme:light dark;scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:74rem;padding:2.5rem clamp(1rem,4vw,2.5rem) 4rem;
 background:var(--paper);color:var(--ink);
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1{margin:0;font-size:clamp(1.6rem,1.2rem + 2vw,2.3rem);line-height:1.15;letter-spacing:-.02em}
h2{display:inline;font-size:1.3rem;line-height:1.3;letter-spacing:-.01em}
p{margin:.6rem 0;max-width:44rem}
header p{margin:.5rem 0 0;color:var(--soft);font-size:1.05rem}
nav{display:flex;flex-wrap:wrap;gap:.4rem;margin-top:1.2rem}
a{color:var(--link)}
nav a{padding:.2rem .75rem;border:1px solid var(--rule);border-radius:1rem;font-size:.9rem;
 text-decoration:none}
nav a:hover{background:var(--box)}
section{margin-top:2.2rem;padding-top:1.4rem;border-top:1px solid var(--rule)}
.blocks{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));
 gap:1.6rem 2rem;margin-top:1rem;align-items:start}
.full{grid-column:1/-1}
figure{margin:0;min-width:0}
figcaption{margin-top:.5rem;color:var(--soft);font-size:.9rem;line-height:1.45;max-width:44rem}
.scroll{overflow-x:auto;background:
 linear-gradient(90deg,var(--paper) 40%,transparent) left/2.5rem 102% no-repeat local,
 linear-gradient(270deg,var(--paper) 40%,transparent) right/2.5rem 102% no-repeat local,
 linear-gradient(90deg,var(--rule),transparent) left/.6rem 100% no-repeat scroll,
 linear-gradient(270deg,var(--rule),transparent) right/.6rem 100% no-repeat scroll}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
img{display:block;max-width:100%;height:auto;border-radius:6px}
.wide img{min-width:min(44rem,180vw)}
svg.fbr{display:block;width:100%;height:auto}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin-top:.5rem;font-size:.85rem}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px;
 outline:1px solid var(--rule)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.42rem .7rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--grid)}
th{border-bottom:1px solid var(--rule);color:var(--soft);font-weight:600;font-size:.85rem}
th:first-child,td:first-child{padding-left:.2rem}
.number{text-align:right}
tbody tr:hover{background:var(--box)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.3rem 1.2rem;margin:0;
 font-size:.95rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
pre{margin:0;padding:.9rem 1rem;background:var(--box);border-radius:6px;
 font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
summary{cursor:pointer}
summary::marker{color:var(--soft)}
@media print{nav{display:none}section{break-inside:avoid-page}}
"""
)
