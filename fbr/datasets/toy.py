"""The toy world: generated images that hold the problem FBR exists for, and what is true of them.

An object is a large body of any colour and a small part that gives its class away, and nine times
in ten it stands on the companion ground of its class. Image labels cannot tell the three apart: a
plain CAM lights up the part, misses the body and bleeds into the ground.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fbr.datasets.toy_cast import KINDS, NEUTRALS, Kind, Paint, Spot, depth

CLASSES = tuple(kind.name for kind in KINDS)
COMPANIONS = tuple(kind.companion for kind in KINDS)
VOID = 255
LENS = (0.15, 0.7, 0.15)


@dataclass(frozen=True)
class World:
    """Everything that makes the world easy or hard; pairs are a least and a most."""

    size: int = 96  # pixels
    size_jitter: int = 16  # height and width are drawn apart, each from size ± size_jitter
    objects: tuple[int, int] = (1, 4)
    classes: tuple[int, int] = (1, 3)
    regions: tuple[int, int] = (3, 5)  # neutral grounds
    object_scale: tuple[float, float] = (0.34, 0.46)  # half the length of a lone object, in sides
    min_visible: float = 0.5  # share of an object that those before it must leave in sight
    part_size: float = 1.0  # length of the distinctive part, 1 = as modelled
    body_texture: float = 0.16  # contrast of the pattern by which a body hints at its class
    contrast: float = 0.8  # of every ground, 1 = as modelled
    noise: float = 0.02  # standard deviation of the sensor noise, for an image in 0…1
    cooccurrence: float = 0.9  # chance that a class in the image brings its companion ground
    companion_alone: float = 0.2  # chance that an image holds a companion ground without its class
    companion_reach: float = 1.0  # length of the companion grounds, 1 = as modelled
    void_border: int = 1  # width of the unsure line around objects in pixels, 0 = none
    saliency_blur: float = 2.5  # standard deviation in pixels
    saliency_wobble: float = 0.3  # largest smooth error, for a saliency in 0…1
    saliency_miss: float = 0.15  # chance that an object is not salient
    saliency_spill: float = 0.3  # chance that pieces of the companion grounds are


@dataclass(frozen=True)
class Scene:
    """One image and what is true of it; arrays are uint8 (H, W), the image (H, W, 3).

    mask is 0 for background, 1…K, and 255 on the line around objects; instances 0 for none, 1…n,
    and 255 on the same line; saliency an imperfect 0…255. companions and parts are the class whose
    companion ground, or distinctive part, is seen there, else 0. classes are the ids in sight,
    ascending.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    saliency: np.ndarray
    companions: np.ndarray
    parts: np.ndarray
    classes: tuple[int, ...]


def draw(world: World, seed: int, index: int) -> Scene:
    """Draw image `index` of a world and seed: always the same bytes, whatever else was drawn."""
    easel = _Easel(world, np.random.default_rng([seed, index]))
    figures, instances = _gather(easel)
    _paint_neutrals(easel)
    companions = _paint_companions(easel, figures)
    parts = np.zeros_like(instances)
    for number, figure in enumerate(figures, start=1):
        _paint_figure(easel, figure)
        seen = (figure.part > 0) & (instances[figure.window] == number)
        parts[figure.window][seen] = figure.pose.label

    companions[instances > 0] = 0
    saliency = _saliency(easel, instances, companions)
    labels = [figure.pose.label for figure in figures]
    mask = np.array([0, *labels], np.uint8)[instances]
    if world.void_border:
        line = _border(instances, world.void_border)
        mask[line] = instances[line] = VOID
    classes = tuple(sorted(set(labels)))
    return Scene(_photograph(easel), mask, instances, saliency, companions, parts, classes)


class _Pose(NamedTuple):
    """Where an object is, half its length, its lean, and 1 if it looks right, -1 if left."""

    label: int
    x: float
    y: float
    scale: float
    lean: float
    face: int

    @property
    def kind(self) -> Kind:
        return KINDS[self.label - 1]

    def frame(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixel coordinates as object coordinates (u, v)."""
        x, y = (x - self.x) / self.scale, (y - self.y) / self.scale
        cos, sin = float(np.cos(self.lean)), float(np.sin(self.lean))
        return self.face * (cos * x + sin * y), cos * y - sin * x


class _Figure(NamedTuple):
    """An object cut out: its window, (u, v) there, and how many pixels deep in body and part."""

    pose: _Pose
    window: tuple[slice, slice]
    u: np.ndarray
    v: np.ndarray
    body: np.ndarray
    part: np.ndarray


class _Easel:
    """A picture in the making: size, coordinates, white noise (H, W), colour planes (3, H, W)."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        low, high = world.size - world.size_jitter, world.size + world.size_jitter
        self.height, self.width = rng.integers(low, high, 2, endpoint=True).tolist()
        self.y = np.arange(self.height, dtype=np.float32)[:, None]
        self.x = np.arange(self.width, dtype=np.float32)[None]
        self.grain = rng.standard_normal((self.height, self.width), dtype=np.float32)
        self.planes = np.zeros((3, self.height, self.width), np.float32)

    def swell(self, cells: int) -> np.ndarray:
        """Return smooth noise (H, W) in -1…1 with about `cells` humps a side."""
        knots = self.rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        # Not through BLAS, whose rounding may follow the number of threads.
        rows = np.einsum("ih,ij->jh", _easing(self.height, cells), knots)
        return np.einsum("jh,jw->hw", rows, _easing(self.width, cells))

    def cover(self, inside: np.ndarray, paint: Paint, x: np.ndarray, y: np.ndarray) -> None:
        """Paint a ground, in a tint and stretch of its own, where `inside` (H, W) is positive."""
        stretch = self.rng.uniform(0.8, 1.25)
        tone = paint.pattern(Spot(x * stretch, y * stretch, self.swell(7), self.grain))
        tone = 0.5 + self.world.contrast * (tone - 0.5)
        tint = self.rng.normal(0, 0.03, 3) + self.rng.normal(0, 0.04)
        _lay(self.planes, inside, tone, paint.dark + tint, paint.light + tint)


def _gather(easel: _Easel) -> tuple[list[_Figure], np.ndarray]:
    """Place objects from far to near; return them and the instances (H, W) left in sight."""
    world, rng = easel.world, easel.rng
    wanted = int(rng.integers(*world.objects, endpoint=True))
    chosen = rng.permutation(len(KINDS))[: rng.integers(*world.classes, endpoint=True)] + 1
    labels = [*chosen[:wanted].tolist(), *rng.choice(chosen, max(0, wanted - len(chosen))).tolist()]
    instances = np.zeros((easel.height, easel.width), np.uint8)
    figures: list[_Figure] = []
    areas: list[int] = []
    for _ in range(4 * wanted):
        if len(figures) == wanted:
            break
        figure = _cut_out(easel, _pose(easel, labels[len(figures)], wanted))
        after = instances.copy()
        after[figure.window][np.maximum(figure.body, figure.part) > 0] = len(figures) + 1
        *left, own = np.bincount(after.ravel(), minlength=len(figures) + 2)[1:].tolist()
        if all(seen >= world.min_visible * area for seen, area in zip(left, areas, strict=True)):
            figures.append(figure)
            areas.append(own)
            instances = after
    return figures, instances


def _pose(easel: _Easel, label: int, crowd: int) -> _Pose:
    """Find a place mostly inside the image, and a size that leaves room for `crowd` objects."""
    rng, kind = easel.rng, KINDS[label - 1]
    room = min(easel.height, easel.width) * crowd**-0.4
    scale = room * kind.scale * rng.uniform(*easel.world.object_scale)
    y, x = (
        rng.uniform(min(0.75 * scale, side / 2), max(side - 0.75 * scale, side / 2))
        for side in (easel.height, easel.width)
    )
    face = 1 if rng.random() < 0.5 else -1
    return _Pose(label, x, y, scale, rng.uniform(-kind.tilt, kind.tilt), face)


def _cut_out(easel: _Easel, pose: _Pose) -> _Figure:
    reach = 1.5 * pose.scale
    rows, columns = (
        slice(max(0, int(centre - reach)), int(centre + reach) + 1) for centre in (pose.y, pose.x)
    )
    u, v = pose.frame(easel.y[rows], easel.x[:, columns])
    body = depth(pose.kind.body, u, v) * pose.scale
    (a, b), size = pose.kind.joint, easel.world.part_size
    part = depth(pose.kind.part, a + (u - a) / size, b + (v - b) / size) * size * pose.scale
    return _Figure(pose, (rows, columns), u, v, body, part)


def _paint_neutrals(easel: _Easel) -> None:
    """Paint neutral grounds over one another, each beyond a straight or ragged border."""
    rng = easel.rng
    wanted = rng.integers(*easel.world.regions, endpoint=True)
    for number, neutral in enumerate(rng.permutation(len(NEUTRALS))[:wanted].tolist()):
        angle = rng.uniform(0, 2 * np.pi)
        x = easel.x - rng.uniform(0.25, 0.75) * easel.width
        y = easel.y - rng.uniform(0.25, 0.75) * easel.height
        inside = x * float(np.cos(angle)) + y * float(np.sin(angle))
        inside += rng.uniform(2, 14) * easel.swell(int(rng.integers(4, 10)))
        everywhere = np.ones_like(inside)
        easel.cover(inside if number else everywhere, NEUTRALS[neutral], easel.x, easel.y)


def _paint_companions(easel: _Easel, figures: list[_Figure]) -> np.ndarray:
    """Paint the companion grounds this image has; return whose they are (H, W), 0 elsewhere."""
    world, rng = easel.world, easel.rng
    present = {figure.pose.label for figure in figures}
    brought = {label for label in sorted(present) if rng.random() < world.cooccurrence}
    absent = sorted(set(range(1, len(KINDS) + 1)) - present)
    homes = [figure.pose for figure in figures if figure.pose.label in brought]
    if absent and rng.random() < world.companion_alone:
        homes.insert(0, _pose(easel, int(rng.choice(absent)), crowd=2))
    companions = np.zeros((easel.height, easel.width), np.uint8)
    for pose in homes:
        u, v = pose.frame(easel.y, easel.x)
        x, y, rx, ry = pose.kind.ground
        reach = world.companion_reach
        ground = pose.kind.ground._replace(rx=rx * reach, ry=ry * reach)
        inside = ground.depth(u, v) * pose.scale + rng.uniform(1, 5) * easel.swell(8)
        paint = pose.kind.ground_paint
        easel.cover(inside, paint, (u - x) * pose.scale, (v - y) * pose.scale)
        companions[inside > 0] = pose.label
    return companions


def _paint_figure(easel: _Easel, figure: _Figure) -> None:
    """Paint a body of any colour and the part that tells its class; round both by shading."""
    rng, contrast = easel.rng, easel.world.body_texture
    pose, window, u, v, body, part = figure
    planes = easel.planes[:, *window]
    at = Spot(u * pose.scale, v * pose.scale, np.zeros_like(u), easel.grain[window])
    colour = rng.uniform(0.3, 0.8) + rng.normal(0, 0.1, 3)
    tone = pose.kind.body_pattern(at)
    _lay(planes, body, tone, colour * (1 - contrast), colour * (1 + contrast))
    paint, tint = pose.kind.part_paint, rng.normal(0, 0.03, 3)
    _lay(planes, part, paint.pattern(at), paint.dark + tint, paint.light + tint)

    inside = np.maximum(body, part)
    light = 0.72 + 0.07 * np.clip(inside, 0, 4) - 0.12 * np.clip(v, -1, 1)
    planes *= 1 + np.clip(inside + 0.5, 0, 1) * (light - 1)


def _lay(
    planes: np.ndarray, inside: np.ndarray, tone: np.ndarray, dark: np.ndarray, light: np.ndarray
) -> None:
    """Blend dark + tone · (light - dark) into planes (3, h, w); the edge is one pixel wide."""
    dark, light = (np.asarray(colour, np.float32)[:, None, None] for colour in (dark, light))
    planes += np.clip(inside + 0.5, 0, 1) * (dark + tone * (light - dark) - planes)


def _photograph(easel: _Easel) -> np.ndarray:
    """Light unevenly, soften as a lens does, add sensor noise; return uint8 (H, W, 3)."""
    planes = easel.planes * (1 + 0.1 * easel.swell(3))
    for axis in (1, 2):
        planes = ndimage.correlate1d(planes, LENS, axis, mode="nearest")
    planes += easel.world.noise * easel.rng.standard_normal(planes.shape, dtype=np.float32)
    return np.ascontiguousarray(_bytes(planes).transpose(1, 2, 0))


def _saliency(easel: _Easel, instances: np.ndarray, companions: np.ndarray) -> np.ndarray:
    """Return what a poor detector sees: soft, uneven, objects missing, pieces of ground added."""
    world, rng = easel.world, easel.rng
    noticed = rng.random(int(instances.max()) + 1) >= world.saliency_miss
    noticed[0] = False
    salient = noticed[instances]
    if rng.random() < world.saliency_spill:
        salient |= (companions > 0) & (easel.swell(5) > 0.3)
    soft = ndimage.gaussian_filter(salient.astype(np.float32), world.saliency_blur)
    return _bytes(soft + world.saliency_wobble * easel.swell(9))


def _border(instances: np.ndarray, width: int) -> np.ndarray:
    """Return where a square of width + 1 pixels meets more than one value."""
    most = ndimage.maximum_filter(instances, width + 1)
    return most != ndimage.minimum_filter(instances, width + 1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=1024)
def _easing(length: int, cells: int) -> np.ndarray:
    """Return weights (cells, length) that ease along a line from knot to knot."""
    place = np.linspace(0, cells - 1, length)
    knot = np.arange(cells)[:, None]
    near = np.clip(1 - np.abs(place - knot), 0, 1)
    return (near * near * (3 - 2 * near)).astype(np.float32)
