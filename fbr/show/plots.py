"""Charts as hand-written SVG: curves, bars and the pipeline graph, crisp at any size."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from fbr.show import svg
from fbr.show.layering import Edge, layered
from fbr.show.palette import SERIES_COLOURS
from fbr.show.scale import Scale, span, tick_labels, ticks

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
Mark = tuple[float, str]
Point = tuple[float, float]
Run = list[Point]

_WIDTH = 480
_RIGHT = _WIDTH - 14
_PLOT_HEIGHT = 210
_LINE = 18
_SMALL_LINE = 16
_BUCKETS = 200
_DOTTED = 20

_LABEL_WIDTH = 150
_VALUE_WIDTH = 44

_NODE_WIDTH = 146
_NODE_GAP = 12
_LANE_WIDTH = 22
_LAYER_GAP = 34


def line_chart(
    series: Series, title: str, x_label: str = "", y_label: str = "", marks: Sequence[Mark] = ()
) -> str:
    """Draw named curves over one pair of axes.

    series maps a name to its xs and ys; a point that is not finite breaks its curve. marks are
    (x, label): labelled vertical lines. Long curves are thinned to what the picture can show.
    """
    curves = {name: _runs(xs, ys) for name, (xs, ys) in series.items()}
    points = [point for runs in curves.values() for run in runs for point in run]
    marks = sorted((x, label) for x, label in marks if math.isfinite(x))
    y_ticks = ticks(*span([y for _, y in points]))
    left = max(svg.text_width(label, 12) for label in tick_labels(y_ticks)) + 12
    across = Scale(*span([x for x, _ in [*points, *marks]]), left, _RIGHT)
    head, top = _head(title, list(series), y_label)
    labels, top = _marks([(across(x), label) for x, label in marks], top)
    down = Scale(y_ticks[0], y_ticks[-1], top + _PLOT_HEIGHT, top)
    parts = [*head, *_axes(across, down, y_ticks, x_label), *labels]
    for number, (name, runs) in enumerate(curves.items()):
        for run in runs:
            parts.append(_curve([(across(x), down(y)) for x, y in _thinned(run)], number))
            if len(points) <= _DOTTED or len(run) == 1:
                parts += [_dot(across(x), down(y), number, f"{name}: {x:g}, {y:g}") for x, y in run]
    if not points:
        parts.append(_nothing((left + _RIGHT) / 2, top + _PLOT_HEIGHT / 2))
    return svg.frame(_WIDTH, top + _PLOT_HEIGHT + (44 if x_label else 26), title, parts)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
    title: str = "",
) -> str:
    """Draw a horizontal bar a name, from zero, with ± whiskers where errors are finite.

    A value that is not finite has a dash in place of its bar.
    """
    errors = [0.0] * len(names) if errors is None else errors
    whiskers = [error if math.isfinite(error) else 0.0 for error in errors]
    rows = list(zip(names, values, whiskers, strict=True))
    pitch = 22 if len(rows) <= 30 else _LINE
    parts, top = _head(title, [], "")
    bottom = top + pitch * max(1, len(rows))
    ends = [end for _, value, error in rows for end in (value - error, value + error)]
    shown = [end for end in ends if math.isfinite(end)]
    marks = ticks(*span([0.0, *shown, *([] if any(shown) else [1.0])]))
    longest = max((svg.text_width(name) for name in names), default=0)
    left = 14 + min(_LABEL_WIDTH, max(20, 1.08 * longest))
    across = Scale(marks[0], marks[-1], left, _WIDTH - _VALUE_WIDTH)
    for tick, label in zip(marks, tick_labels(marks), strict=True):
        parts.append(svg.line(across(tick), top, across(tick), bottom, "grid"))
        parts.append(svg.text(across(tick), bottom + 16, label, "soft", "middle"))
    for row, (name, value, error) in enumerate(rows):
        middle = top + pitch * (row + 0.5)
        label = svg.shortened(name, _LABEL_WIDTH)
        parts.append(svg.text(left - 8, middle + 4.5, label, anchor="end"))
        parts.append(_bar(name, value, error, middle, 0.64 * pitch, across))
    parts.append(svg.line(across(0), top, across(0), bottom, "axis"))
    if not rows:
        parts.append(_nothing((left + _WIDTH - _VALUE_WIDTH) / 2, (top + bottom) / 2 + 4))
    return svg.frame(_WIDTH, bottom + 24, title, parts)


def dots(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    title: str = "",
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Draw a dot a name, evenly spaced, with ± whiskers of these errors; neighbours are joined.

    A value that is not finite leaves a gap.
    """
    rows = [(i, *row) for i, row in enumerate(zip(names, values, errors, strict=True))]
    known = [row for row in rows if math.isfinite(row[2])]
    ends = [end for _, _, value, error in known for end in (value - error, value + error)]
    y_ticks = ticks(*span(ends))
    left = max(svg.text_width(label, 12) for label in tick_labels(y_ticks)) + 12
    across = Scale(-0.5, len(names) - 0.5, left, _RIGHT)
    parts, top = _head(title, [], y_label)
    down = Scale(y_ticks[0], y_ticks[-1], top + _PLOT_HEIGHT, top)
    parts += [*_heights(across, down, y_ticks), *_foot(across, down.start, x_label)]
    room = (_RIGHT - left) / len(names)
    for x, name, _, _ in rows:
        label = svg.shortened(name, room, 12)
        parts.append(svg.text(across(x), down.start + 17, label, "soft", "middle"))
    for run in _runs(range(len(names)), values):
        parts.append(_curve([(across(x), down(y)) for x, y in run], 0))
    for x, name, value, error in known:
        low, high = down(value - error), down(value + error)
        parts.append(svg.line(across(x), low, across(x), high, "whisker"))
        parts.append(_dot(across(x), down(value), 0, f"{name}: {value:.1f} ± {error:.1f}"))
    return svg.frame(_WIDTH, top + _PLOT_HEIGHT + (44 if x_label else 26), title, parts)


def graph(nodes: Sequence[tuple[str, str]], edges: Iterable[Edge], title: str = "Pipeline") -> str:
    """Draw a directed acyclic graph from top to bottom.

    nodes are (name, description). An edge that a longer way implies is not drawn. Raises ValueError
    for an unknown node or a cycle.
    """
    described = {name: textwrap.wrap(words, 21, max_lines=3) for name, words in nodes}
    layout = layered(list(described), edges, _NODE_WIDTH + _NODE_GAP, _LANE_WIDTH)
    spans = {}
    bottom = 8.0
    for layer in layout.layers:
        lines = max((len(described[item]) for item in layer if isinstance(item, str)), default=0)
        height = 30 + 14 * lines
        spans |= dict.fromkeys(layer, (bottom, bottom + height))
        bottom += height + _LAYER_GAP
    parts = [
        _link(layout.x[source], spans[source][1], layout.x[target], spans[target][0])
        + (_tip(layout.x[target], spans[target][0]) if isinstance(target, str) else "")
        for source, target in layout.steps
    ]
    for item, centre in layout.x.items():
        if isinstance(item, str):
            parts.append(_node(item, described[item], centre, *spans[item]))
        else:
            parts.append(svg.line(centre, spans[item][0], centre, spans[item][1], "edge"))
    if not nodes:
        return svg.frame(_WIDTH, 40, title, [_nothing(_WIDTH / 2, 24)])
    return svg.frame(layout.width, bottom - _LAYER_GAP + 8, title, parts)


def _head(title: str, names: list[str], y_label: str) -> tuple[list[str], float]:
    """Draw title, legend and the name of the y axis; return them and where the plot begins."""
    parts, y = [], 8.0
    if title:
        parts.append(svg.text(2, 20, svg.shortened(title, _WIDTH, 15), "title"))
        y = 32.0
    if any(names):
        x, y = 2.0, y + 12
        for number, name in enumerate(names):
            name = svg.shortened(name, _WIDTH - 40)
            width = 36 + svg.text_width(name)
            if x > 2 and x + width > _WIDTH:
                x, y = 2.0, y + _LINE
            parts.append(_curve([(x + 1, y - 4), (x + 19, y - 4)], number))
            parts.append(svg.text(x + 25, y, name))
            x += width
        y += 6
    if y_label:
        y += 14
        parts.append(svg.text(2, y, y_label, "soft"))
        y += 4
    return parts, y + 10


def _axes(across: Scale, down: Scale, y_ticks: Sequence[float], x_label: str) -> list[str]:
    bottom = down.start
    parts = _heights(across, down, y_ticks)
    inside = [t for t in ticks(across.low, across.high) if across.low <= t <= across.high]
    for tick, label in zip(inside, tick_labels(inside), strict=True):
        parts.append(svg.line(across(tick), bottom, across(tick), bottom + 4, "axis"))
        parts.append(svg.text(across(tick), bottom + 17, label, "soft", "middle"))
    return parts + _foot(across, bottom, x_label)


def _heights(across: Scale, down: Scale, y_ticks: Sequence[float]) -> list[str]:
    """Draw the grid of the y axis and its numbers."""
    parts = []
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts.append(svg.line(across.start, down(tick), across.end, down(tick), "grid"))
        parts.append(svg.text(across.start - 7, down(tick) + 4, label, "soft", "end"))
    return parts


def _foot(across: Scale, bottom: float, x_label: str) -> list[str]:
    """Draw the line of the x axis and its name."""
    parts = [svg.line(across.start, bottom, across.end, bottom, "axis")]
    if x_label:
        middle = (across.start + across.end) / 2
        parts.append(svg.text(middle, bottom + 35, x_label, "soft", "middle"))
    return parts


def _marks(marks: list[Mark], top: float) -> tuple[list[str], float]:
    """Draw marks with their labels in rows above the plot, none over another.

    Return them and where the plot begins now.
    """
    ends: list[float] = []
    placed = []
    for x, label in marks:
        width = svg.text_width(label, 12)
        start = x if x + width < _WIDTH else _WIDTH - width
        row = next((row for row, end in enumerate(ends) if end < start), len(ends))
        ends[row : row + 1] = [start + width + 8]
        placed.append((x, start, top + _SMALL_LINE * (row + 0.5), label))
    top += _SMALL_LINE * len(ends)
    bottom = top + _PLOT_HEIGHT
    parts = [svg.line(x, y + 4, x, bottom, "mark") for x, _, y, _ in placed]
    return parts + [svg.text(start, y, label, "soft halo") for _, start, y, label in placed], top


def _runs(xs: Sequence[float], ys: Sequence[float]) -> list[Run]:
    """Cut a curve into runs of points that are finite in both coordinates."""
    runs: list[Run] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _thinned(run: Run) -> Run:
    """Keep the lowest and the highest point of each stretch, and both ends, so no spike is lost."""
    size = math.ceil(len(run) / _BUCKETS)
    if size <= 2:
        return run
    kept = {0, len(run) - 1}
    for start in range(0, len(run), size):
        stretch = range(start, min(start + size, len(run)))
        kept |= {min(stretch, key=lambda i: run[i][1]), max(stretch, key=lambda i: run[i][1])}
    return [run[i] for i in sorted(kept)]


def _curve(points: Run, number: int) -> str:
    """Draw a curve in its series' colour; when colours run out they come again with dashes."""
    path = "L".join(f"{svg.number(x)} {svg.number(y)}" for x, y in points)
    again = number // SERIES_COLOURS
    dashes = f";stroke-dasharray:{2 + 3 * again} 4" if again else ""
    return (
        f'<path class="curve" style="stroke:var(--c{number % SERIES_COLOURS}){dashes}" '
        f'd="M{path}"/>'
    )


def _dot(x: float, y: float, number: int, tip: str) -> str:
    return (
        f'<circle cx="{svg.number(x)}" cy="{svg.number(y)}" r="3" '
        f'style="fill:var(--c{number % SERIES_COLOURS})"><title>{svg.clean(tip)}</title></circle>'
    )


def _bar(
    name: str, value: float, error: float, middle: float, thickness: float, across: Scale
) -> str:
    if not math.isfinite(value):
        return svg.text(across(0) + 6, middle + 4, "–", "soft")
    digits = 1 if across.high > 2 else 3
    label = f"{value:.{digits}f}"
    tip = f"{name}: {label}" + (f" ± {error:.{digits}f}" if error else "")
    start, end = sorted((across(0), across(value)))
    parts = [
        f"<title>{svg.clean(tip)}</title>",
        f'<rect x="{svg.number(start)}" y="{svg.number(middle - thickness / 2)}" rx="2" '
        f'width="{svg.number(end - start)}" height="{svg.number(thickness)}" '
        'style="fill:var(--c0)"/>',
    ]
    if error:
        low, high = across(value - error), across(value + error)
        end = max(end, high)
        parts.append(svg.line(low, middle, high, middle, "whisker"))
        parts += [svg.line(x, middle - 4, x, middle + 4, "whisker") for x in (low, high)]
    return f"<g>{''.join(parts)}{svg.text(end + 6, middle + 4, label, 'soft halo')}</g>"


def _nothing(x: float, y: float) -> str:
    return svg.text(x, y, "no data", "soft halo", "middle")


def _link(x1: float, y1: float, x2: float, y2: float) -> str:
    a, b, c, d, half = map(svg.number, (x1, y1, x2, y2, (y1 + y2) / 2))
    return f'<path class="edge" d="M{a} {b}C{a} {half} {c} {half} {c} {d}"/>'


def _tip(x: float, y: float) -> str:
    left, right, above = map(svg.number, (x - 4.5, x + 4.5, y - 8))
    return f'<path class="tip" d="M{left} {above}H{right}L{svg.number(x)} {svg.number(y)}Z"/>'


def _node(name: str, lines: list[str], centre: float, top: float, bottom: float) -> str:
    words = [svg.text(centre, top + 19, svg.shortened(name, _NODE_WIDTH - 8), "name", "middle")]
    for row, line in enumerate(lines):
        words.append(svg.text(centre, top + 36 + 14 * row, line, "soft", "middle"))
    return (
        f'<rect class="box" x="{svg.number(centre - _NODE_WIDTH / 2)}" y="{svg.number(top)}" '
        f'rx="6" width="{_NODE_WIDTH}" height="{svg.number(bottom - top)}"/>{"".join(words)}'
    )
