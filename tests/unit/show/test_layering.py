"""The layout points down, crosses little, overlaps nothing and is the same every time."""

import itertools

import numpy as np
import pytest

from fbr.show.layering import _crossings, _kept_apart, layered

PIPELINE = [
    *("prepare", "cam_train", "cam_infer", "cam_eval", "crf_refine", "irn_train", "irn_infer"),
    *("mask_eval", "seg_train", "seg_eval", "submit", "wsis_train", "wsis_eval", "report"),
]
READS = [
    *[("prepare", name) for name in PIPELINE[1:]],
    *itertools.pairwise(PIPELINE[1:4]),
    ("cam_infer", "crf_refine"),
    *itertools.pairwise(PIPELINE[4:8]),
    ("cam_infer", "irn_infer"),
    ("crf_refine", "mask_eval"),
    ("irn_infer", "seg_train"),
    ("irn_infer", "wsis_train"),
    *itertools.pairwise(PIPELINE[8:11]),
    ("seg_train", "submit"),
    ("wsis_train", "wsis_eval"),
    *[(name, "report") for name in PIPELINE if name.endswith("eval")],
]


def random_graph(seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    rng = np.random.default_rng(seed)
    names = [f"n{number}" for number in range(12)]
    return names, [pair for pair in itertools.combinations(names, 2) if rng.random() < 0.2]


def reachable(edges) -> set:
    """Close the edges under following one another, the slow and sure way."""
    closed = set(edges)
    while more := {(a, d) for a, b in closed for c, d in closed if b == c} - closed:
        closed |= more
    return closed


@pytest.mark.parametrize("seed", range(5))
def test_steps_go_down_one_layer_and_join_the_same_nodes(seed):
    names, edges = random_graph(seed)
    layout = layered(names, edges, 100, 20)
    row = {item: number for number, layer in enumerate(layout.layers) for item in layer}
    assert all(row[target] == row[source] + 1 for source, target in layout.steps)
    assert sorted(item for item in row if isinstance(item, str)) == sorted(names)
    joined = {
        (a, b) for a, b in reachable(layout.steps) if isinstance(a, str) and isinstance(b, str)
    }
    assert joined == reachable(edges)


@pytest.mark.parametrize("seed", range(5))
def test_items_of_a_layer_do_not_overlap(seed):
    layout = layered(*random_graph(seed), 100, 20)
    half = {item: 50 if isinstance(item, str) else 10 for item in layout.x}
    for layer in layout.layers:
        for left, right in itertools.pairwise(layer):
            assert layout.x[right] - layout.x[left] >= half[left] + half[right] - 1e-6
    assert min(layout.x[item] - half[item] for item in half) >= -1e-6
    assert max(layout.x[item] + half[item] for item in half) <= layout.width + 1e-6


def test_implied_edges_are_left_out():
    layout = layered(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")], 100, 20)
    assert layout.steps == [("a", "b"), ("b", "c")]


def test_long_edges_into_a_node_share_its_lane():
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("f", "e"), ("g", "e")]
    layout = layered(list("abcdefg"), edges, 100, 20)
    assert [len(layer) for layer in layout.layers] == [3, 2, 2, 2, 1]


def test_pipeline_crosses_nothing_and_fits_a_phone():
    layout = layered(PIPELINE, READS, 158, 22)
    assert _crossings(layout.layers, layout.steps) == 0
    assert layout.width == 3 * 158 + 22


def test_a_chain_is_straight():
    layout = layered(list("abcd"), itertools.pairwise("abcd"), 100, 20)
    assert {round(x, 3) for x in layout.x.values()} == {50}


def test_layout_repeats():
    assert layered(PIPELINE, READS, 158, 22) == layered(PIPELINE, READS, 158, 22)


def test_empty_graph():
    assert layered([], [], 100, 20).layers == []


@pytest.mark.parametrize("edges", [[("a", "a")], [("a", "b"), ("b", "a")]])
def test_cycles_are_refused(edges):
    with pytest.raises(ValueError, match="cycle"):
        layered(["a", "b"], edges, 100, 20)


def test_unknown_nodes_are_refused():
    with pytest.raises(ValueError, match="not there: b, c"):
        layered(["a"], [("a", "b"), ("c", "a")], 100, 20)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("room", [8.0, 1e9])
def test_kept_apart_is_the_nearest_allowed_place(seed, room):
    rng = np.random.default_rng(seed)
    pull, force = rng.normal(size=4) * 5, rng.random(4) + 0.1
    gaps = rng.random(3) * 2
    found = _kept_apart(pull, force, gaps, -room, room)
    others = found + rng.normal(size=(20_000, 4)) * rng.choice([0.01, 0.1, 1], (20_000, 1))
    allowed = (np.diff(others) >= gaps).all(axis=1) & (np.abs(others) <= room).all(axis=1)
    assert allowed.sum() > 100
    assert (np.diff(found) >= gaps - 1e-9).all()
    assert np.abs(found).max() <= room + 1e-9
    cost = (force * (found - pull) ** 2).sum()
    assert (force * (others[allowed] - pull) ** 2).sum(axis=1).min() >= cost - 1e-9
