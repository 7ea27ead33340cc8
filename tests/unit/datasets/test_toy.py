"""The toy world keeps its promises: same bytes, true labels, statistics as its numbers say."""

import hashlib
import os
import subprocess
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from fbr.datasets.toy import CLASSES, COMPANIONS, VOID, Scene, World, draw

ARRAYS = [field.name for field in fields(Scene) if field.name != "classes"]
SMALL = World(size=48, size_jitter=8)


@cache
def scenes(world=World(), count=150):  # noqa: B008, a World is frozen
    return [draw(world, 7, index) for index in range(count)]


def digest(scene):
    return hashlib.sha256(b"".join(getattr(scene, name).tobytes() for name in ARRAYS)).hexdigest()


def objects(scene):
    """Pixels of each object, as (h·w,) truth, in the order of the instances."""
    found = np.unique(scene.instances)
    return [scene.instances == number for number in found[(found > 0) & (found < VOID)]]


def ground_share(scene, label):
    return (scene.companions == label).mean()


def test_same_bytes_in_any_order():
    forwards = [digest(draw(SMALL, 3, index)) for index in range(6)]
    backwards = [digest(draw(SMALL, 3, index)) for index in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 6


def test_same_bytes_in_another_process_with_other_threads():
    script = (
        "from tests.unit.datasets.test_toy import digest, draw, World;"
        "print(digest(draw(World(), 5, 11)))"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for threads in ("1", "2")
    }
    assert prints == {digest(draw(World(), 5, 11))}


def test_seed_changes_everything():
    assert digest(draw(SMALL, 0, 0)) != digest(draw(SMALL, 1, 0))


def test_shapes_and_types():
    for scene in scenes():
        height, width = scene.mask.shape
        assert scene.image.shape == (height, width, 3)
        assert 80 <= height <= 112
        assert 80 <= width <= 112
        for name in ARRAYS:
            array = getattr(scene, name)
            assert array.dtype == np.uint8
            assert array.shape[:2] == (height, width)
            assert array.flags.c_contiguous
    assert len({scene.mask.shape for scene in scenes()}) > 50


def test_labels_are_what_is_seen():
    assert len(CLASSES) == len(COMPANIONS) == len(set(CLASSES + COMPANIONS)) / 2 == 6
    for scene in scenes():
        seen, pixels = np.unique(scene.mask, return_counts=True)
        foreground = (seen > 0) & (seen < VOID)
        assert tuple(seen[foreground]) == scene.classes
        assert 1 <= len(scene.classes) <= 3
        assert pixels[foreground].min() >= 20


def test_objects_have_one_class_each_and_share_void():
    for scene in scenes():
        np.testing.assert_array_equal(scene.mask == VOID, scene.instances == VOID)
        np.testing.assert_array_equal(scene.mask == 0, scene.instances == 0)
        assert 1 <= len(objects(scene)) <= 4
        for inside in objects(scene):
            assert len(np.unique(scene.mask[inside])) == 1


def test_void_is_a_line_between_everything():
    plain, lined = (draw(World(void_border=width), 7, 0).instances for width in (0, 1))
    assert VOID not in plain
    void = lined == VOID
    np.testing.assert_array_equal(lined[~void], plain[~void])
    for a, b in ((lined[1:], lined[:-1]), (lined[:, 1:], lined[:, :-1])):
        assert ((a == b) | (a == VOID) | (b == VOID)).all()


def test_parts_are_small_and_on_their_object():
    part = body = 0
    for scene in scenes():
        on = (scene.parts > 0) & (scene.mask != VOID)
        np.testing.assert_array_equal(scene.parts[on], scene.mask[on])
        part += on.sum()
        body += ((scene.mask > 0) & (scene.mask < VOID) & ~on).sum()
    assert 2 < body / part < 6


def test_companions_lie_beside_their_objects():
    beside = []
    for scene in scenes():
        assert not scene.companions[(scene.mask > 0) & (scene.mask < VOID)].any()
        for label in scene.classes:
            ground = scene.companions == label
            near = binary_dilation(scene.mask == label, iterations=4)
            beside += [(ground & near).any()] if ground.sum() > 50 else []
    assert np.mean(beside) > 0.95


def test_cooccurrence_is_the_number_asked_for():
    grounds = [(label, scene) for scene in scenes() for label in scene.classes]
    brought = np.mean([ground_share(scene, label) > 0.002 for label, scene in grounds])
    assert 0.82 < brought < 0.96
    for scene in scenes(replace(SMALL, cooccurrence=0.0, companion_alone=0.0), 30):
        assert not scene.companions.any()


def test_companions_come_alone_when_asked_to():
    for scene in scenes(replace(SMALL, cooccurrence=0.0, companion_alone=1.0), 30):
        assert not set(np.unique(scene.companions)) & set(scene.classes)
    alone = [set(np.unique(scene.companions)) - {0, *scene.classes} for scene in scenes()]
    assert 0.1 < np.mean([bool(labels) for labels in alone]) < 0.3


def test_classes_and_foreground_are_balanced():
    present = np.mean([[k in scene.classes for k in range(1, 7)] for scene in scenes()], axis=0)
    assert present.min() > 0.15
    assert present.max() < 0.45
    assert 0.15 < np.mean([(scene.instances > 0).mean() for scene in scenes()]) < 0.40


def test_grounds_are_recognised_by_colour_and_parts_more_so():
    """The class is told by the part and the ground, not by the colour of the body."""

    def spread(region):
        colours = {k: [] for k in range(1, 7)}
        for scene in scenes():
            for k in scene.classes:
                inside = region(scene, k)
                if inside.sum() > 30:
                    colours[k].append(scene.image[inside].mean(0))
        means = np.array([np.mean(colours[k], axis=0) for k in colours])
        within = np.mean([np.var(colours[k], axis=0).sum() for k in colours])
        return np.var(means, axis=0).sum() / within

    part = spread(lambda scene, k: scene.parts == k)
    ground = spread(lambda scene, k: scene.companions == k)
    body = spread(lambda scene, k: (scene.mask == k) & (scene.parts == 0))
    assert part > ground > 2
    assert body < 0.5


def test_saliency_is_useful_and_imperfect():
    both = either = 0
    for scene in scenes():
        salient, objects = scene.saliency >= 128, scene.mask > 0
        known = scene.mask != VOID
        both += (salient & objects & known).sum()
        either += ((salient | objects) & known).sum()
    assert 0.6 < both / either < 0.9


def test_saliency_follows_its_numbers():
    clean = World(saliency_blur=0.5, saliency_wobble=0, saliency_miss=0, saliency_spill=0)
    scene = draw(clean, 7, 0)
    known = scene.mask != VOID
    np.testing.assert_array_equal((scene.saliency >= 128)[known], (scene.mask > 0)[known])
    assert not draw(replace(clean, saliency_miss=1), 7, 0).saliency.any()


def test_part_size_shrinks_parts_only():
    small, large = (draw(World(part_size=size, void_border=0), 7, 1) for size in (0.5, 1.0))
    assert 0 < (small.parts > 0).sum() < 0.5 * (large.parts > 0).sum()


@pytest.mark.parametrize("size", [16, 33, 200])
def test_any_size(size):
    for index in range(5):
        scene = draw(World(size=size, size_jitter=0), 0, index)
        assert scene.image.shape == (size, size, 3)
        assert scene.classes


def test_crowds_keep_every_object_in_sight():
    crowded = World(objects=(12, 12), classes=(6, 6), void_border=0, min_visible=0.6)
    for index in range(3):
        scene = draw(crowded, 0, index)
        assert len(objects(scene)) >= 6
        assert min(inside.sum() for inside in objects(scene)) > 20
