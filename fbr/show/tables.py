"""One table, three languages: the same rows as HTML, Markdown and LaTeX."""

import math
from dataclasses import dataclass
from html import escape

MISSING = "–"


@dataclass(frozen=True)
class Number:
    """A number as it is shown: its decimals, its plus sign, ± its spread where there is one."""

    value: float
    spread: float | None = None
    digits: int = 1
    signed: bool = False

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return MISSING
        shown = f"{self.value:{'+' if self.signed else ''}.{self.digits}f}"
        if self.spread is None or not math.isfinite(self.spread):
            return shown
        return f"{shown} ± {self.spread:.{self.digits}f}"


@dataclass(frozen=True)
class Link:
    """Words that lead to an address."""

    words: str
    address: str


Cell = str | int | float | Number | tuple[Link, ...] | None


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns. A missing cell is None; numbers stand at the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells under {len(self.columns)} columns: {row}")


def markdown_table(table: Table) -> str:
    """Write a table in GitHub's Markdown, its caption as a line above."""
    rules = ["---:" if right else "---" for right in _at_right(table)]
    lines = [f"| {' | '.join(map(_in_markdown, row))} |" for row in (table.columns, *table.rows)]
    lines.insert(1, f"| {' | '.join(rules)} |")
    caption = [_markdown(table.caption), ""] if table.caption else []
    return "\n".join([*caption, *lines]) + "\n"


def latex_table(table: Table) -> str:
    """Write a table as a plain LaTeX tabular, its caption as a comment above."""
    places = "".join("r" if right else "l" for right in _at_right(table))
    head, *rows = [" & ".join(map(_in_latex, row)) + r" \\" for row in (table.columns, *table.rows)]
    body = [rf"\begin{{tabular}}{{{places}}}", r"\hline", head, r"\hline", *rows, r"\hline"]
    caption = [f"% {' '.join(table.caption.split())}"] if table.caption else []
    return "\n".join([*caption, *body, r"\end{tabular}"]) + "\n"


def html_table(table: Table) -> str:
    """Write a table as HTML in a box of its own that scrolls sideways where the page is narrow."""
    right = _at_right(table)
    head = "".join(_html("th", name, at) for name, at in zip(table.columns, right, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(_html("td", cell, at) for cell, at in zip(row, right, strict=True))
        + "</tr>"
        for row in table.rows
    )
    caption = f"<figcaption>{escape(table.caption)}</figcaption>" if table.caption else ""
    return (
        f'<figure class="full"><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>{caption}</figure>"
    )


def _at_right(table: Table) -> list[bool]:
    """Tell the columns of numbers: those that hold one, and no text."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [
        any(isinstance(cell, int | float | Number) for cell in column)
        and not any(isinstance(cell, str | tuple) for cell in column)
        for column in columns
    ]


def _shown(cell: str | int | float | Number | None) -> str:
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return MISSING
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _html(tag: str, cell: Cell, right: bool) -> str:
    if isinstance(cell, tuple):
        inside = " ".join(f'<a href="{escape(to.address)}">{escape(to.words)}</a>' for to in cell)
    else:
        inside = escape(_shown(cell))
    return f"<{tag}{' class=number' if right else ''}>{inside}</{tag}>"


def _in_markdown(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return " ".join(f"[{_markdown(to.words)}]({to.address})" for to in cell)
    return _markdown(_shown(cell))


def _in_latex(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return " ".join(rf"\href{{{_latex(to.address)}}}{{{_latex(to.words)}}}" for to in cell)
    return _latex(_shown(cell))


def _markdown(words: str) -> str:
    plain = escape(" ".join(words.split()), quote=False)
    return "".join("\\" + letter if letter in "\\|*_`[]" else letter for letter in plain)


_LATEX = {
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
}


def _latex(words: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(words.split()))
