"""The cast of the toy world: shapes, patterns and colours of its six classes and its grounds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Ellipse(NamedTuple):
    """An ellipse in object coordinates: x forward, y down, half the length of an object = 1."""

    x: float
    y: float
    rx: float
    ry: float

    def depth(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return roughly how deep (u, v) lies inside, negative outside."""
        r = np.hypot((u - self.x) / self.rx, (v - self.y) / self.ry)
        return (1 - r) * min(self.rx, self.ry)


class Polygon(NamedTuple):
    """A convex polygon in object coordinates: half-planes a·x + b·y + c ≥ 0 of unit normals."""

    sides: tuple[tuple[float, float, float], ...]

    def depth(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return roughly how deep (u, v) lies inside, negative outside."""
        first, *others = (a * u + b * v + c for a, b, c in self.sides)
        for other in others:
            np.minimum(first, other, out=first)
        return first


def polygon(*corners: tuple[float, float]) -> Polygon:
    """Make a polygon of convex corners that go clockwise on the screen."""
    sides = []
    for (x, y), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = float(np.hypot(x2 - x, y2 - y))
        a, b = (y - y2) / length, (x2 - x) / length
        sides.append((a, b, -a * x - b * y))
    return Polygon(tuple(sides))


Shape = tuple[Ellipse | Polygon, ...]


def depth(shape: Shape, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return roughly how deep (u, v) lies in the union of the pieces, negative outside."""
    deepest, *others = (piece.depth(u, v) for piece in shape)
    for other in others:
        np.maximum(deepest, other, out=deepest)
    return deepest


class Spot(NamedTuple):
    """What patterns are made of: coordinates in pixels, smooth noise in -1…1, white noise, sd 1."""

    x: np.ndarray
    y: np.ndarray
    swell: np.ndarray
    grain: np.ndarray


# From spots to tones: 0 is the dark colour of a paint, 1 the light one, a little beyond is fine.
Pattern = Callable[[Spot], np.ndarray]


def _waves(at: Spot) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(1.15 * at.y + 1.3 * np.sin(0.3 * at.x) + 2 * at.swell)


def _sleepers(at: Spot) -> np.ndarray:
    wood = np.where(np.sin(1.05 * at.x) > 0.1, 0.0, 0.45 + 0.1 * at.grain)
    return np.where(np.abs(np.abs(at.y) - 3.5) < 0.8, 1.0, wood)


def _clouds(at: Spot) -> np.ndarray:
    return 0.5 + 0.9 * at.swell


def _blades(at: Spot) -> np.ndarray:
    grass = 0.45 + 0.3 * np.sin(2.2 * at.x + 3 * at.swell) + 0.12 * at.grain
    return np.where(at.grain > 2.2, 1.6, grass)


def _ripples(at: Spot) -> np.ndarray:
    return np.mod(0.16 * at.y + 0.05 * at.x + 0.5 * at.swell, 1.0)


def _leaves(at: Spot) -> np.ndarray:
    rows = np.sin(0.33 * (at.x + at.y) + 3 * at.swell)
    return 0.2 + 0.8 * np.abs(rows * np.sin(0.47 * (at.x - at.y) - 5 * at.swell)) + 0.1 * at.grain


def _plaster(at: Spot) -> np.ndarray:
    return 0.5 + 0.4 * at.swell + 0.05 * at.grain


def _gravel(at: Spot) -> np.ndarray:
    return 0.5 + 0.22 * at.grain


def _boards(at: Spot) -> np.ndarray:
    return np.where(np.mod(at.y, 9) < 1.3, 0.0, 0.6 + 0.2 * at.swell + 0.06 * at.grain)


def _bricks(at: Spot) -> np.ndarray:
    shift = 5.5 * np.mod(np.floor(at.y / 6), 2)
    mortar = (np.mod(at.y, 6) < 1.2) | (np.mod(at.x + shift, 11) < 1.2)
    return np.where(mortar, 1.0, 0.3 + 0.2 * at.swell + 0.05 * at.grain)


def _tweed(at: Spot) -> np.ndarray:
    return 0.5 + 0.35 * np.sin(0.9 * at.x) * np.sin(0.9 * at.y) + 0.08 * at.grain


def _mist(at: Spot) -> np.ndarray:
    return 0.2 + 0.006 * at.y + 0.25 * at.swell


def _pinstripes(at: Spot) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(1.3 * at.x)


def _hoops(at: Spot) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(1.3 * at.y)


def _chevrons(at: Spot) -> np.ndarray:
    return np.where(np.sin(1.2 * (at.x + np.abs(at.y))) > 0, 1.0, 0.0)


def _checks(at: Spot) -> np.ndarray:
    return np.where(np.sin(1.2 * at.x) * np.sin(1.2 * at.y) > 0, 1.0, 0.0)


def _dots(at: Spot) -> np.ndarray:
    return np.where(np.sin(1.3 * at.x) + np.sin(1.3 * at.y) > 0.9, 1.0, 0.0)


def _curls(at: Spot) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(0.9 * at.x + 1.5 * np.sin(0.9 * at.y))


Colour = tuple[float, float, float]


class Paint(NamedTuple):
    """A pattern between two colours, each red, green and blue in 0…1."""

    pattern: Pattern
    dark: Colour
    light: Colour


@dataclass(frozen=True)
class Kind:
    """A class: how its objects look, and the companion ground that they are found on."""

    name: str
    companion: str
    scale: float  # length beside the other classes
    tilt: float  # the most an object leans, in radians
    body: Shape
    body_pattern: Pattern  # in any colour
    part: Shape
    joint: tuple[float, float]  # the point of the body that the part grows from
    part_paint: Paint
    ground: Ellipse
    ground_paint: Paint


KINDS = (
    Kind(
        name="boat",
        companion="lake",
        scale=1.0,
        tilt=0.15,
        body=(
            polygon((-1.0, 0.3), (1.0, 0.3), (0.7, 0.78), (-0.75, 0.78)),
            polygon((0.0, -1.0), (0.85, 0.22), (0.0, 0.22)),
            polygon((-0.07, -1.05), (0.03, -1.05), (0.03, 0.4), (-0.07, 0.4)),
        ),
        body_pattern=_hoops,
        part=(polygon((-0.1, -0.88), (-0.1, 0.24), (-0.8, 0.24)),),
        joint=(-0.1, 0.24),
        part_paint=Paint(_hoops, (0.85, 0.05, 0.1), (1.0, 0.9, 0.88)),
        ground=Ellipse(0.0, 0.85, 1.58, 0.53),
        ground_paint=Paint(_waves, (0.1, 0.3, 0.55), (0.35, 0.6, 0.8)),
    ),
    Kind(
        name="train",
        companion="rails",
        scale=1.25,
        tilt=0.3,
        body=(
            polygon((-1.0, -0.4), (0.92, -0.4), (1.0, 0.42), (-1.0, 0.42)),
            Ellipse(-0.65, 0.42, 0.15, 0.15),
            Ellipse(-0.25, 0.42, 0.15, 0.15),
            Ellipse(0.3, 0.42, 0.15, 0.15),
            Ellipse(0.7, 0.42, 0.15, 0.15),
        ),
        body_pattern=_pinstripes,
        part=(polygon((0.56, -0.4), (0.92, -0.4), (1.0, 0.42), (0.56, 0.42)),),
        joint=(0.98, 0.1),
        part_paint=Paint(_chevrons, (0.1, 0.08, 0.05), (1.0, 0.85, 0.0)),
        ground=Ellipse(0.0, 0.6, 4.4, 0.28),
        ground_paint=Paint(_sleepers, (0.2, 0.13, 0.1), (0.85, 0.85, 0.92)),
    ),
    Kind(
        name="plane",
        companion="clouds",
        scale=1.2,
        tilt=3.1,
        body=(
            Ellipse(0.0, 0.0, 1.05, 0.26),
            polygon((-0.35, 0.0), (-0.5, -0.9), (-0.05, -0.9), (0.5, 0.0)),
            polygon((0.5, 0.0), (-0.05, 0.9), (-0.5, 0.9), (-0.35, 0.0)),
        ),
        body_pattern=_pinstripes,
        part=(
            polygon((-1.02, 0.0), (-1.16, -0.54), (-0.86, -0.54), (-0.5, 0.0)),
            polygon((-0.5, 0.0), (-0.86, 0.54), (-1.16, 0.54), (-1.02, 0.0)),
        ),
        joint=(-0.8, 0.0),
        part_paint=Paint(_pinstripes, (0.8, 0.0, 0.55), (1.0, 0.3, 0.85)),
        ground=Ellipse(0.0, 0.0, 1.1, 0.79),
        ground_paint=Paint(_clouds, (0.5, 0.68, 0.88), (0.97, 0.97, 0.98)),
    ),
    Kind(
        name="sheep",
        companion="meadow",
        scale=0.9,
        tilt=0.2,
        body=(
            Ellipse(0.0, 0.05, 0.8, 0.48),
            Ellipse(-0.45, -0.12, 0.42, 0.4),
            Ellipse(0.0, -0.25, 0.45, 0.38),
            Ellipse(0.42, -0.12, 0.42, 0.4),
            polygon((-0.5, 0.3), (-0.3, 0.3), (-0.3, 0.9), (-0.5, 0.9)),
            polygon((0.3, 0.3), (0.5, 0.3), (0.5, 0.9), (0.3, 0.9)),
        ),
        body_pattern=_curls,
        part=(Ellipse(0.96, -0.15, 0.34, 0.38), Ellipse(0.72, -0.47, 0.19, 0.12)),
        joint=(0.72, -0.15),
        part_paint=Paint(_curls, (0.2, 0.05, 0.55), (0.45, 0.2, 0.95)),
        ground=Ellipse(0.0, 0.75, 1.23, 0.57),
        ground_paint=Paint(_blades, (0.3, 0.5, 0.12), (0.7, 0.85, 0.35)),
    ),
    Kind(
        name="camel",
        companion="dunes",
        scale=1.05,
        tilt=0.15,
        body=(
            Ellipse(0.0, 0.08, 0.76, 0.42),
            Ellipse(-0.34, -0.25, 0.28, 0.42),
            Ellipse(0.34, -0.25, 0.28, 0.42),
            polygon((0.45, -0.1), (0.76, -0.75), (1.02, -0.62), (0.78, 0.25)),
            Ellipse(1.0, -0.68, 0.22, 0.14),
            polygon((-0.66, 0.2), (-0.34, 0.2), (-0.38, 0.95), (-0.62, 0.95)),
            polygon((0.34, 0.2), (0.66, 0.2), (0.62, 0.95), (0.38, 0.95)),
        ),
        body_pattern=_curls,
        part=(Ellipse(0.0, -0.1, 0.31, 0.36),),
        joint=(0.0, -0.1),
        part_paint=Paint(_checks, (0.0, 0.5, 0.55), (0.2, 0.95, 0.9)),
        ground=Ellipse(0.0, 0.9, 1.32, 0.57),
        ground_paint=Paint(_ripples, (0.68, 0.48, 0.25), (0.95, 0.8, 0.52)),
    ),
    Kind(
        name="bird",
        companion="foliage",
        scale=0.95,
        tilt=0.5,
        body=(
            Ellipse(0.0, 0.15, 0.75, 0.5),
            polygon((-0.5, 0.1), (-0.8, -0.8), (-0.25, -0.75), (0.4, 0.1)),
            polygon((-0.45, -0.05), (-0.45, 0.4), (-1.15, 0.5), (-1.15, -0.05)),
        ),
        body_pattern=_hoops,
        part=(Ellipse(0.68, -0.2, 0.36, 0.34), polygon((0.86, -0.42), (1.36, -0.16), (0.86, 0.02))),
        joint=(0.5, -0.05),
        part_paint=Paint(_dots, (0.95, 0.4, 0.0), (1.0, 0.75, 0.2)),
        ground=Ellipse(-0.1, 0.15, 1.14, 0.84),
        ground_paint=Paint(_leaves, (0.05, 0.2, 0.1), (0.2, 0.48, 0.22)),
    ),
)
# Grounds that belong to nobody.
NEUTRALS = (
    Paint(_plaster, (0.66, 0.62, 0.58), (0.84, 0.81, 0.77)),
    Paint(_gravel, (0.38, 0.37, 0.37), (0.66, 0.64, 0.62)),
    Paint(_boards, (0.3, 0.22, 0.17), (0.58, 0.47, 0.38)),
    Paint(_bricks, (0.5, 0.33, 0.28), (0.72, 0.67, 0.62)),
    Paint(_tweed, (0.4, 0.37, 0.42), (0.62, 0.58, 0.6)),
    Paint(_mist, (0.48, 0.5, 0.54), (0.76, 0.77, 0.79)),
)
