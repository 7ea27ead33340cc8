"""Boundary IoU against loops, and what it must and must not see."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from fbr.metrics.boundary import boundary, boundary_counts, reach
from fbr.metrics.semantic import ious
from tests.reference import semantic as reference


def blocks(size, seed=0, classes=4, void=True):
    """A mask (H, W) of coarse blocks, some of them void."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (-(-size[0] // 5), -(-size[1] // 4)), np.uint8)
    coarse[random.random(coarse.shape) < 0.15 * void] = 255
    return coarse.repeat(5, 0).repeat(4, 1)[: size[0], : size[1]]


SIZES = [(1, 1), (1, 9), (7, 2), (23, 31)]


@pytest.mark.parametrize(
    ("size", "pixels"), [((1, 1), 1), ((75, 20), 2), ((375, 500), 12), ((480, 640), 16)]
)
def test_the_reach_is_two_percent_of_the_diagonal(size, pixels):
    assert reach(size) == pixels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reach", [1, 2, 7])
def test_a_boundary_is_what_lies_near_another_id(size, reach):
    mask = blocks(size)
    assert boundary(mask, reach).tolist() == reference.near_other(mask, reach)


@pytest.mark.parametrize("reach", [1, 3])
def test_a_boundary_is_the_mask_without_its_erosion(reach):
    mask = blocks((23, 31))
    near = boundary(mask, reach)
    for c in np.unique(mask):
        own = mask == c
        eroded = binary_erosion(own, np.ones((3, 3)), iterations=reach, border_value=0)
        assert np.array_equal(near & own, own & ~eroded)


@pytest.mark.parametrize("size", [*SIZES, (60, 75)])
def test_counts_are_the_loops(size):
    pred, target = blocks(size), blocks(size, seed=1)
    assert boundary_counts(pred, target, 4).tolist() == reference.boundary_counts(pred, target, 4)


def test_a_perfect_prediction_scores_one_whatever_it_says_in_void():
    target = blocks((23, 31))
    pred = np.where(target == 255, 2, target).astype(np.uint8)
    assert np.nanmin(ious(boundary_counts(pred, target, 4))) == 1


def test_it_sees_contours_that_iou_hardly_sees():
    target = np.zeros((200, 200), np.uint8)
    target[20:180, 20:180] = 1
    pred = np.zeros_like(target)
    pred[23:177, 23:177] = 1  # three pixels short all around
    iou = (pred & target).sum() / (pred | target).sum()
    near = ious(boundary_counts(pred, target, 2))[1]
    assert near < 0.5 < 0.9 < iou


@pytest.mark.filterwarnings("error")
def test_all_void_counts_nothing():
    counts = boundary_counts(blocks((5, 9)), np.full((5, 9), 255, np.uint8), 4)
    assert not counts.any()
    assert np.isnan(ious(counts)).all()


def test_mirrors_and_names_of_classes_do_not_matter():
    pred, target = blocks((23, 31)), blocks((23, 31), seed=1)
    counts = boundary_counts(pred, target, 4)
    mirrored = boundary_counts(pred[:, ::-1], target[:, ::-1], 4)
    assert np.array_equal(mirrored, counts)
    names = np.arange(256, dtype=np.uint8)
    names[:4] = [2, 0, 3, 1]
    assert np.array_equal(boundary_counts(names[pred], names[target], 4)[:, names[:4]], counts)
