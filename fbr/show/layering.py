"""Place a directed graph in layers with few crossings (Sugiyama, Tagawa and Toda 1981)."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np

Edge = tuple[str, str]
# A node of the graph, or the lane by which long edges into a node pass a layer: (node, layer).
Item = str | tuple[str, int]
Step = tuple[Item, Item]

_STARTS = 12
_SWEEPS = 12
_PULLS = 130


@dataclass(frozen=True)
class Layout:
    """Items by layer from left to right, their centres, the steps between layers, the width."""

    layers: list[list[Item]]
    x: dict[Item, float]
    steps: list[Step]
    width: float


def layered(
    names: Sequence[str], edges: Iterable[Edge], node_width: float, lane_width: float
) -> Layout:
    """Lay out a graph so that every edge points down.

    Edges that a longer way implies are left out. Long edges into the same node share one lane.
    Raises graphlib.CycleError (a ValueError) for a cycle.
    """
    wanted = {(source, target) for source, target in edges}
    if unknown := sorted({end for edge in wanted for end in edge} - set(names)):
        raise ValueError(f"edges name nodes that are not there: {', '.join(unknown)}")
    parents = {name: [other for other in names if (other, name) in wanted] for name in names}
    depth = _depths(parents)
    steps = _steps(_direct(parents), depth)
    layers = _uncrossed(_filled(names, depth, steps), steps)
    widths = {
        item: node_width if isinstance(item, str) else lane_width
        for layer in layers
        for item in layer
    }
    width = max((sum(widths[item] for item in layer) for layer in layers), default=0.0)
    return Layout(layers, _centres(layers, steps, widths, width), steps, width)


def _depths(parents: dict[str, list[str]]) -> dict[str, int]:
    """Give each node the length of the longest way to it."""
    depth: dict[str, int] = {}
    for name in TopologicalSorter(parents).static_order():
        depth[name] = max((depth[parent] + 1 for parent in parents[name]), default=0)
    return depth


def _direct(parents: dict[str, list[str]]) -> list[Edge]:
    """Keep the edges that no longer way implies."""
    above: dict[str, set[str]] = {}
    for name in TopologicalSorter(parents).static_order():
        above[name] = set(parents[name]).union(*(above[parent] for parent in parents[name]))
    return [
        (parent, name)
        for name, own in parents.items()
        for parent in own
        if not any(parent in above[other] for other in own)
    ]


def _steps(edges: list[Edge], depth: dict[str, int]) -> list[Step]:
    """Cut edges into steps of one layer, through the lane of their target."""
    steps: dict[Step, None] = {}
    for source, target in edges:
        lane = [(target, layer) for layer in range(depth[source] + 1, depth[target])]
        stops = [source, *lane, target]
        steps.update(dict.fromkeys(itertools.pairwise(stops)))
    return list(steps)


def _filled(names: Sequence[str], depth: dict[str, int], steps: list[Step]) -> list[list[Item]]:
    layers: list[list[Item]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    for lane in dict.fromkeys(end for step in steps for end in step if isinstance(end, tuple)):
        layers[lane[1]].append(lane)
    return layers


def _uncrossed(layers: list[list[Item]], steps: list[Step]) -> list[list[Item]]:
    """Sort each layer by the mean place of its neighbours, down and up; return the best order seen.

    Sorting stops in local optima, so it starts again from shuffled layers, always the same ones.
    """
    shuffle = np.random.default_rng(0).permutation
    best, fewest = layers, _crossings(layers, steps)
    for _ in range(_STARTS):
        for sweep in range(_SWEEPS):
            if fewest == 0:
                return best
            layers = _swept(layers, steps, down=sweep % 2 == 0)
            count = _crossings(layers, steps)
            if count < fewest:
                best, fewest = layers, count
        layers = [[layer[i] for i in shuffle(len(layer))] for layer in layers]
    return best


def _swept(layers: list[list[Item]], steps: list[Step], down: bool) -> list[list[Item]]:
    near: dict[Item, list[Item]] = {item: [] for layer in layers for item in layer}
    for source, target in steps:
        near[target if down else source].append(source if down else target)
    place: dict[Item, float] = {}
    for layer in layers if down else layers[::-1]:
        pull = {
            item: float(np.mean([place[other] for other in near[item]] or own))
            for own, item in enumerate(layer)
        }
        place |= {item: spot for spot, item in enumerate(sorted(layer, key=pull.__getitem__))}
    return [sorted(layer, key=place.__getitem__) for layer in layers]


def _crossings(layers: list[list[Item]], steps: list[Step]) -> int:
    place = {
        item: (row, spot) for row, layer in enumerate(layers) for spot, item in enumerate(layer)
    }
    spans = [(*place[source], place[target][1]) for source, target in steps]
    return sum(
        row == other_row and start < other_start and end > other_end
        for row, start, end in spans
        for other_row, other_start, other_end in spans
    )


def _centres(
    layers: list[list[Item]], steps: list[Step], widths: dict[Item, float], width: float
) -> dict[Item, float]:
    """Pull items towards their neighbours, layer by layer, without overlap, inside 0..width.

    The sum of sideways distances is made small by reweighted least squares: unlike plain least
    squares it leaves most edges exactly straight. Lanes and chains pull harder: they bend last.
    """
    near = _pulls(steps, widths)
    gaps = [[(widths[a] + widths[b]) / 2 for a, b in itertools.pairwise(layer)] for layer in layers]
    x = dict.fromkeys(widths, width / 2)
    for sweep in range(_PULLS):
        softness = max(0.5, 1000 * 0.93**sweep)
        for layer, apart in zip(layers, gaps, strict=True):
            pull, force = [], []
            for item in layer:
                ends = np.array([x[other] for other, _ in near[item]] or [width / 2])
                hold = np.array([strength for _, strength in near[item]] or [1.0])
                weights = hold / (np.abs(ends - x[item]) + softness)
                pull.append(np.average(ends, weights=weights))
                force.append(weights.sum())
            low, high = widths[layer[0]] / 2, width - widths[layer[-1]] / 2
            x.update(zip(layer, _kept_apart(pull, force, apart, low, high), strict=True))
    return {item: float(centre) for item, centre in x.items()}


def _pulls(steps: list[Step], items: Iterable[Item]) -> dict[Item, list[tuple[Item, float]]]:
    """List each item's neighbours and how strongly they pull."""
    children = Counter(source for source, _ in steps)
    parents = Counter(target for _, target in steps)
    near: dict[Item, list[tuple[Item, float]]] = {item: [] for item in items}
    for source, target in steps:
        chain = children[source] == parents[target] == 1
        strength = 8.0 ** (isinstance(source, tuple) + isinstance(target, tuple) + chain)
        near[source].append((target, strength))
        near[target].append((source, strength))
    return near


def _kept_apart(
    pull: Sequence[float], force: Sequence[float], gaps: Sequence[float], low: float, high: float
) -> np.ndarray:
    """Return the places nearest to `pull`, in least squares weighted by `force`, inside low..high.

    They keep their order and gaps. With the gaps taken off it is isotonic regression, solved by
    pooling neighbours that collide.
    """
    offsets = np.cumsum([0.0, *gaps])
    pools: list[tuple[float, float, int]] = []
    for mean, weight in zip(np.asarray(pull) - offsets, force, strict=True):
        count = 1
        while pools and pools[-1][0] > mean:
            other, other_weight, others = pools.pop()
            mean = (mean * weight + other * other_weight) / (weight + other_weight)
            weight += other_weight
            count += others
        pools.append((mean, weight, count))
    means = np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])
    return offsets + means.clip(low, high - offsets[-1])
