"""Charts are well-formed SVG, hold the data, survive odd data, and no text can break them."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fbr.show import plots

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert('1')</script>&\"\x00\x1b\ud800\n"
NAN = float("nan")


def parsed(drawing: str) -> ElementTree.Element:
    root = ElementTree.fromstring(drawing)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.find(f"{SVG}title").text
    assert not any(word in drawing for word in ("nan", "inf", "NaN"))
    return root


def words(root: ElementTree.Element) -> list[str]:
    return [node.text for node in root.iter(f"{SVG}text")]


def curves(root: ElementTree.Element) -> list[np.ndarray]:
    """Read the curves back as (points, 2) arrays, the samples of the legend left out."""
    paths = [node.get("d") for node in root.iter(f"{SVG}path") if node.get("class") == "curve"]
    points = [np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2) for path in paths]
    names = sum(np.ptp(each[:, 1]) == 0 and np.ptp(each[:, 0]) == 18 for each in points)
    return points[names:]


def inside(root: ElementTree.Element) -> bool:
    width, height = map(float, root.get("viewBox").split()[2:])
    xs = [
        float(node.get(key)) for node in root.iter() for key in ("x", "x1", "cx") if node.get(key)
    ]
    ys = [
        float(node.get(key)) for node in root.iter() for key in ("y", "y1", "cy") if node.get(key)
    ]
    return min(xs) >= 0 and max(xs) <= width and min(ys) >= 0 and max(ys) <= height


def test_curve_is_drawn_to_scale():
    root = parsed(plots.line_chart({"loss": ([0, 1, 4], [0, 5, 10])}, "Loss", "step", "nats"))
    (curve,) = curves(root)
    x, y = curve.T
    assert (x - x[0]) / np.ptp(x) == pytest.approx([0, 0.25, 1], abs=0.001)
    assert (y[0] - y) / np.ptp(y) == pytest.approx([0, 0.5, 1], abs=0.001)
    assert {"Loss", "loss", "step", "nats", "0", "10"} <= set(words(root))
    assert inside(root)


def test_nan_breaks_a_curve():
    root = parsed(plots.line_chart({"a": (range(6), [1, 2, NAN, 4, float("inf"), 6])}, "Gaps"))
    assert [len(curve) for curve in curves(root)] == [2, 1, 1]


@pytest.mark.parametrize(
    "series", [{}, {"a": ([], [])}, {"a": ([NAN], [1])}, {"a": ([0, 1], [NAN, NAN])}]
)
def test_nothing_to_draw(series):
    root = parsed(plots.line_chart(series, "Empty", "x", "y"))
    assert "no data" in words(root)
    assert curves(root) == []


def test_one_point_and_flat_curves():
    one = parsed(plots.line_chart({"a": ([3], [7])}, "One"))
    assert len(list(one.iter(f"{SVG}circle"))) == 1
    flat = parsed(plots.line_chart({"a": (np.arange(100), np.full(100, 0.5))}, "Flat"))
    assert inside(one)
    assert inside(flat)


def test_long_curves_are_thinned_and_keep_their_spikes():
    ys = np.zeros(50_000)
    ys[12_345], ys[40_001] = 9, -9
    (curve,) = curves(parsed(plots.line_chart({"a": (np.arange(50_000), ys)}, "Spikes")))
    assert len(curve) < 1000
    assert (np.diff(curve[:, 0]) >= 0).all()
    middle = np.median(curve[:, 1])
    assert curve[:, 1].max() - middle == pytest.approx(middle - curve[:, 1].min(), rel=0.01)
    assert np.ptp(curve[:, 1]) > 100


def test_marks_are_drawn_where_they_belong_and_their_labels_apart():
    marks = [(0.5, "chosen"), (0.52, "best of all"), (1, "end"), (NAN, "nowhere")]
    root = parsed(plots.line_chart({"a": ([0, 1], [0, 1])}, "Marks", marks=marks))
    lines = [float(n.get("x1")) for n in root.iter(f"{SVG}line") if n.get("class") == "mark"]
    left, right = curves(root)[0][:, 0]
    assert lines == pytest.approx(
        [left + part * (right - left) for part in (0.5, 0.52, 1)], abs=0.1
    )
    labels = {n.text: n for n in root.iter(f"{SVG}text") if n.get("class") == "soft halo"}
    assert set(labels) == {"chosen", "best of all", "end"}
    assert labels["chosen"].get("y") != labels["best of all"].get("y")


def test_many_series_stay_distinct():
    series = {f"series {number}": ([0, 1], [0, number]) for number in range(20)}
    root = parsed(plots.line_chart(series, "Many"))
    styles = [n.get("style") for n in root.iter(f"{SVG}path") if n.get("class") == "curve"]
    assert len(set(styles[:20])) == 20
    assert set(series) <= set(words(root))
    assert inside(root)


def test_curve_lengths_must_agree():
    with pytest.raises(ValueError, match="shorter"):
        plots.line_chart({"a": ([0, 1], [0])}, "Uneven")


@pytest.mark.parametrize("count", [1, 6, 21, 81])
def test_bars_are_as_long_as_their_values(count):
    values = np.random.default_rng(count).uniform(1, 99, count)
    names = [f"class {number}" for number in range(count)]
    root = parsed(plots.bars(names, values, np.ones(count), "IoU"))
    widths = [float(node.get("width")) for node in root.iter(f"{SVG}rect")]
    assert np.array(widths) / widths[0] == pytest.approx(values / values[0], rel=0.1, abs=0.05)
    assert set(names) | {f"{value:.1f}" for value in values} <= set(words(root))
    whiskers = [node for node in root.iter(f"{SVG}line") if node.get("class") == "whisker"]
    assert len(whiskers) == 3 * count
    assert inside(root)


def test_missing_values_and_errors_of_bars():
    root = parsed(plots.bars(["a", "b", "c"], [NAN, 0.25, 0.5], [NAN, NAN, 0.125], "Some"))
    assert len(list(root.iter(f"{SVG}rect"))) == 2
    assert len([node for node in root.iter(f"{SVG}line") if node.get("class") == "whisker"]) == 3
    assert "–" in words(root)
    tips = [node.text for node in root.iter(f"{SVG}title")]
    assert tips[1:] == ["b: 0.250", "c: 0.500 ± 0.125"]


@pytest.mark.parametrize("values", [[], [NAN], [0.0], [-2.0, 3.0]])
def test_bars_of_odd_data(values):
    root = parsed(plots.bars([f"n{i}" for i in range(len(values))], values, title="Odd"))
    assert ("no data" in words(root)) == (not values)
    assert inside(root)


def test_graph_holds_nodes_and_descriptions():
    nodes = [("a", "first of them all"), ("b", ""), ("c", "a long description " * 9)]
    root = parsed(plots.graph(nodes, [("a", "b"), ("a", "c")], "Pipeline"))
    assert {"a", "b", "c", "first of them all"} <= set(words(root))
    assert len(list(root.iter(f"{SVG}rect"))) == 3
    assert len([node for node in root.iter(f"{SVG}path") if node.get("class") == "tip"]) == 2
    assert inside(root)


def test_graph_places_sources_above():
    root = parsed(plots.graph([("late", ""), ("early", "")], [("early", "late")]))
    heights = {node.text: float(node.get("y")) for node in root.iter(f"{SVG}text")}
    assert heights["early"] < heights["late"]


def test_empty_graph():
    assert words(parsed(plots.graph([], []))) == ["no data"]


@pytest.mark.parametrize(
    "drawing",
    [
        plots.line_chart({HOSTILE: ([0], [1])}, HOSTILE, HOSTILE, HOSTILE, [(0, HOSTILE)]),
        plots.bars([HOSTILE], [1.0], [0.1], HOSTILE),
        plots.graph([(HOSTILE, HOSTILE)], [], HOSTILE),
    ],
    ids=["line_chart", "bars", "graph"],
)
def test_text_cannot_break_out(drawing):
    root = parsed(drawing)
    assert "<script" not in drawing
    assert not list(root.iter(f"{SVG}script"))
    drawing.encode()


def test_drawings_repeat():
    rng = np.random.default_rng(0)
    xs, ys = rng.random(500), rng.random(500)
    first, second = (plots.line_chart({"a": (xs, ys)}, "Same") for _ in range(2))
    assert first == second


def test_dots_stand_evenly_with_their_whiskers():
    root = parsed(plots.dots(["1", "8", "32"], [40, NAN, 50], [2, 0, 4], "K", "regions", "mIoU"))
    assert [len(curve) for curve in curves(root)] == [1, 1]
    whiskers = [line for line in root.iter(f"{SVG}line") if line.get("class") == "whisker"]
    heights = [abs(float(w.get("y1")) - float(w.get("y2"))) for w in whiskers]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert {"K", "regions", "mIoU", "1", "8", "32"} <= set(words(root))
    tips = [node.text for circle in root.iter(f"{SVG}circle") for node in circle]
    assert tips == ["1: 40.0 ± 2.0", "32: 50.0 ± 4.0"]
    assert inside(root)


def test_dots_survive_odd_names_and_nothing_known():
    assert inside(parsed(plots.dots([HOSTILE, "x" * 200], [1, 1], [0, 0], HOSTILE)))
    assert inside(parsed(plots.dots(["a"], [NAN], [NAN], "None")))
