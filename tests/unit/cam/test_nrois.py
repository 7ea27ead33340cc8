"""The batched k-means against scikit-learn's, and where there is little to cluster."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fbr.cam.nrois import _lloyd, assign, nrois
from tests.reference import fbr as twin

STARTS = ["k-means++", "random"]


def draws(images, regions, seed=0):
    return torch.rand(images, regions, generator=torch.Generator().manual_seed(seed))


def clustered(images, positions, regions, spread, seed):
    """Points (B, N, D) around `regions` centres of spread 3."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(images, regions, 16, generator=generator)
    own = torch.randint(regions, (images, positions, 1), generator=generator)
    noise = torch.randn(images, positions, 16, generator=generator)
    return centres.gather(1, own.expand(-1, -1, 16)) + spread * noise


def scene(images=4, positions=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(images, positions, 5, generator=generator).relu()
    return points, torch.rand(images, positions, generator=generator) < 0.6


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0, None])
def test_inertia_is_that_of_scikit_learn(spread):
    cluster = pytest.importorskip("sklearn.cluster")
    threads = pytest.importorskip("threadpoolctl")
    ours, theirs = 0.0, 0.0
    for seed in range(4):
        points = clustered(8, 200, 8, spread or 1, seed)
        if spread is None:
            points = torch.randn(points.shape, generator=torch.Generator().manual_seed(seed)).relu()
        inside = torch.ones(points.shape[:2], dtype=torch.bool)
        centres, _ = nrois(points, inside, draws(8, 8, seed), "k-means++", 10)
        for image, found in zip(points.double().numpy(), centres.double().numpy(), strict=True):
            ours += twin.inertia(image, found)
            with threads.threadpool_limits(1):
                theirs += cluster.KMeans(8, n_init=1, random_state=seed).fit(image).inertia_
    assert ours < 1.04 * theirs


@pytest.mark.parametrize("start", STARTS)
def test_at_the_end_each_centre_is_the_mean_of_the_points_nearest_to_it(start):
    points, inside = scene()
    centres, counts = nrois(points, inside, draws(4, 6), start, 50)
    assert counts.all()
    for image, within, found in zip(points, inside, centres, strict=True):
        own = twin.nearest(image.double().numpy(), found.double().numpy())
        assert assign(image[None], found[None])[0].tolist() == own
        for k in range(6):
            members = [p for p, n, here in zip(image, own, within, strict=True) if n == k and here]
            assert members
            torch.testing.assert_close(found[k], torch.stack(members).mean(0))


@pytest.mark.parametrize("start", STARTS)
def test_more_steps_are_never_worse(start):
    points, inside = scene(2)
    inside[:] = True
    many = [nrois(points, inside, draws(2, 6), start, steps)[0] for steps in (0, 1, 3, 10)]
    for image in range(2):
        left = [twin.inertia(points[image].numpy(), c[image].numpy()) for c in many]
        assert left == sorted(left, reverse=True)
        assert left[-1] < left[0]


@pytest.mark.parametrize("length", [0.0, 1e-3, 1.0, 1e3])
def test_of_two_centres_at_one_place_the_first_has_the_points(length):
    """And the other stays, for what the first leaves behind; as where all of a border is alike."""
    points = torch.tensor([[[0.0, 1], [0, 1], [0, 2], [5, 0], [6, 0]]]) * length
    centres = points[:, [0, 1, 3, 4]]
    moved = _lloyd(points, torch.ones(1, 5), centres)
    assert moved[0, 0].tolist() == pytest.approx([0, length * 4 / 3])
    assert torch.equal(moved[0, 1:], centres[0, 1:])
    assert torch.equal(_lloyd(points, torch.ones(1, 5), moved)[0, 1], points[0, 0])


def test_centres_that_begin_at_zero_part_from_each_other():
    """As rows of zeros, which a rectified projection has many of, let a random start have them."""
    points = torch.zeros(1, 20, 2)
    points[0, 15:] = torch.tensor([1.0, 2.0])
    centres = torch.zeros(1, 3, 2)
    for _ in range(2):
        centres = _lloyd(points, torch.ones(1, 20), centres)
    assert centres.tolist() == [[[1, 2], [0, 0], [0, 0]]]


def test_what_all_points_share_does_not_blur_their_regions():
    """Features with a large mean, of which float32 leaves the differences some digits."""
    points = clustered(8, 200, 8, 0.3, 0)
    inside = torch.ones(points.shape[:2], dtype=torch.bool)
    left = []
    for shift in (0, 1000):
        centres, _ = nrois(points + shift, inside, draws(8, 8, 0), "k-means++", 10)
        pairs = zip(points.double().numpy(), centres.double().numpy() - shift, strict=True)
        left.append(sum(twin.inertia(*pair) for pair in pairs))
    assert left[1] < 1.05 * left[0]


@pytest.mark.parametrize("start", STARTS)
def test_without_a_step_centres_are_different_points_inside(start):
    points, inside = scene(3)
    centres, _ = nrois(points, inside, draws(3, 6), start, 0)
    for image, within, found in zip(points, inside, centres, strict=True):
        same = (found[:, None] == image[within]).all(2)
        assert (same.sum(1) == 1).all()
        assert (same.sum(0) <= 1).all()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1 - 2**-24])
def test_extreme_draws_choose_points_inside(start, value):
    points, inside = scene(3)
    inside[:, 50:] = False
    inside[:, :4] = False
    centres, _ = nrois(points, inside, torch.full((3, 6), value), start, 0)
    for image, within, found in zip(points, inside, centres, strict=True):
        assert (found[:, None] == image[within]).all(2).any(1).all()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("inside", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_as_many_points_as_regions_or_fewer_stay_as_they_are(start, inside, offset):
    """Offset: points so alike for their length that products cannot tell them apart."""
    points = scene(2)[0] / (1 + offset) + offset
    mask = torch.zeros(2, 60, dtype=torch.bool)
    where = [7, 8, 20, 33, 58, 59][:inside]
    mask[0, where] = True
    mask[1] = True
    centres, counts = nrois(points, mask, draws(2, 6), start, 10)
    assert counts.tolist() == [[k < inside for k in range(6)], [True] * 6]
    assert torch.equal(centres[0, :inside], points[0, where])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("positions", [1, 3])
def test_an_image_smaller_than_the_regions(start, positions):
    points = scene(2, positions)[0]
    mask = torch.tensor([[True] * positions, [False] * positions])
    centres, counts = nrois(points, mask, draws(2, 6), start, 10)
    assert counts.tolist() == [[k < positions for k in range(6)], [False] * 6]
    assert torch.equal(centres[0, :positions], points[0])
    assert centres.isfinite().all()


@pytest.mark.parametrize("start", STARTS)
def test_points_all_alike_give_this_point(start):
    points = torch.full((2, 30, 5), 0.3)
    centres, counts = nrois(points, torch.ones(2, 30, dtype=torch.bool), draws(2, 6), start, 10)
    assert counts.all()
    torch.testing.assert_close(centres, torch.full((2, 6, 5), 0.3))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("inside", [7, 8, 9, 11, 13])
def test_a_few_more_points_than_regions_start_at_different_ones(start, inside):
    points = torch.randn(40, 60, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[:, 5 : 5 + 2 * inside : 2] = True
    centres, _ = nrois(points, mask, draws(40, 6), start, 0)
    for image, within, found in zip(points, mask, centres, strict=True):
        same = (found[:, None] == image[within]).all(2)
        assert same.sum() == same.any(0).sum() == 6


def test_a_random_start_takes_the_points_of_a_part_alike():
    points, inside = torch.arange(20.0).view(1, 20, 1).expand(6000, -1, -1), torch.ones(6000, 20)
    inside[:, ::4] = 0
    centres, _ = nrois(points, inside > 0, draws(6000, 6), "random", 0)
    counts = centres.long().flatten().bincount(minlength=20)
    assert (counts[::4] == 0).all()
    # 15 points in 6 parts of 2 or 3, one of each: six sums are known.
    expected = torch.tensor([6000 / n for n in (2, 3, 2, 3, 2, 3) for _ in range(n)])
    assert chisquare(counts[inside[0] > 0].numpy(), expected.numpy(), ddof=5).pvalue > 0.001


@pytest.mark.parametrize("start", STARTS)
def test_one_region_is_the_mean(start):
    points, inside = scene()
    centres, _ = nrois(points, inside, draws(4, 1), start, 1)
    for image, within, found in zip(points, inside, centres, strict=True):
        torch.testing.assert_close(found[0], image[within].mean(0))


@pytest.mark.parametrize("start", STARTS)
def test_points_outside_never_matter(start):
    points, inside = scene()
    inside[0] = False
    inside[0, [3, 30]] = True
    elsewhere = torch.where(inside[:, :, None], points, 50 * torch.rand_like(points))
    (one, counts), (other, _) = (
        nrois(given, inside, draws(4, 6), start, 10) for given in (points, elsewhere)
    )
    torch.testing.assert_close(one[counts], other[counts])


@pytest.mark.parametrize("start", STARTS)
def test_an_image_does_not_depend_on_the_others(start):
    points, inside = scene()
    together, _ = nrois(points, inside, draws(4, 6), start, 10)
    for image in range(4):
        alone, _ = nrois(*(x[image : image + 1] for x in (points, inside, draws(4, 6))), start, 10)
        assert torch.equal(alone[0], together[image])


def test_other_draws_start_elsewhere_and_nothing_has_a_gradient():
    points, inside = scene()
    points.requires_grad_()
    one, other = (nrois(points, inside, draws(4, 6, seed), "random", 0)[0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert not one.requires_grad


def test_each_point_starts_as_often():
    """The first of k-means++ is drawn alike from the points inside."""
    many, positions = 4000, 10
    points = torch.arange(positions).float()[None, :, None].expand(many, -1, 1)
    inside = torch.arange(positions).expand(many, -1) % 3 > 0
    centres, _ = nrois(points, inside, draws(many, 2), "k-means++", 0)
    seen = centres[:, 0, 0].long().bincount(minlength=positions)
    assert not seen[~inside[0]].any()
    expected = many / inside[0].sum()
    np.testing.assert_allclose(seen[inside[0]], expected, rtol=0.15)
