"""Both forms of the lattice, compiled loops and tensor operations, against the exact Gaussian."""

import numpy as np
import pytest
import torch

from fbr.masks import lattice, tensor_crf


class Tensors:
    """The tensor form with the compiled one's arguments: all points are of one image."""

    def __init__(self, features):
        owner = torch.zeros(features.shape[1], dtype=torch.int64)
        self.kernel = tensor_crf.Kernel(torch.from_numpy(features), owner)

    def filter(self, values):
        return self.kernel.filter(torch.from_numpy(values)).numpy()


@pytest.fixture(params=[lattice.Kernel, Tensors], ids=["compiled", "tensors"])
def build(request):
    return request.param


def exact(features):
    """The kernel as a matrix (N, N), by its definition."""
    apart = np.square(features[:, :, None] - features[:, None, :]).sum(axis=0)
    kernel = np.exp(-apart / 2)
    total = np.sqrt(kernel.sum(axis=0))
    return kernel / total / total[:, None]


@pytest.mark.parametrize(("d", "tolerance"), [(1, 0.013), (2, 0.018), (3, 0.034), (5, 0.024)])
def test_comes_near_the_gaussian(d, tolerance, build):
    """Mean relative error on dense points; a Gaussian 15 % wider misses by more, but for d = 2."""
    random = np.random.default_rng(d)
    features = random.uniform(0, 2, (d, 900)).astype(np.float32)
    values = np.stack([np.ones(900), np.sin(features.sum(axis=0))]).astype(np.float32)
    found, expected = build(features).filter(values), values @ exact(features)
    assert np.abs(found - expected).mean() < tolerance * np.abs(expected).mean()


def test_points_of_one_place_get_their_mean(build):
    features = np.full((5, 40), 7.3, np.float32)
    values = np.random.default_rng(0).random((3, 40), np.float32)
    found = build(features).filter(values)
    np.testing.assert_allclose(found, np.tile(values.mean(axis=1)[:, None], 40), rtol=1e-5)


def test_points_far_apart_keep_their_values(build):
    features = (100 * np.arange(12, dtype=np.float32)).reshape(1, 12).repeat(2, axis=0)
    values = np.random.default_rng(0).random((2, 12), np.float32)
    np.testing.assert_allclose(build(features).filter(values), values, rtol=1e-5)


def test_more_vertices_than_the_table_has_at_first(build):
    """Two clouds far apart, one of them with more vertices than fit the first hash table."""
    random = np.random.default_rng(0)
    features = random.uniform(0, 300, (5, 20_000)).astype(np.float32)
    features[:, :50] = -500
    values = random.random((1, 20_000), np.float32)
    found = build(features).filter(values)
    np.testing.assert_allclose(found[0, :50], values[0, :50].mean(), rtol=1e-4)
    np.testing.assert_allclose(found[0, 50:], values[0, 50:], rtol=1e-4)


def test_is_linear_and_takes_every_row_alone(build):
    random = np.random.default_rng(0)
    kernel = build(random.uniform(0, 4, (3, 200)).astype(np.float32))
    values = random.random((3, 200), np.float32)
    together = kernel.filter(values)
    for row, result in zip(values, together, strict=True):
        np.testing.assert_array_equal(kernel.filter(row[None])[0], result)
    np.testing.assert_allclose(
        kernel.filter(values[:1] + values[1:2])[0], together[:2].sum(axis=0), rtol=1e-4
    )
    assert kernel.filter(values[:0]).shape == (0, 200)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_one_point(d, build):
    kernel = build(np.full((d, 1), -3.2, np.float32))
    np.testing.assert_allclose(kernel.filter(np.float32([[0.25], [1]])), [[0.25], [1]], rtol=1e-6)


def test_points_of_two_images_do_not_hear_each_other():
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.uniform(0, 3, (3, 60)).astype(np.float32)).repeat(1, 2)
    values = torch.from_numpy(random.random((2, 120), np.float32))
    both = tensor_crf.Kernel(features, torch.arange(2).repeat_interleave(60))
    one = tensor_crf.Kernel(features[:, :60], torch.zeros(60, dtype=torch.int64))
    for part in (slice(0, 60), slice(60, 120)):
        alone = one.filter(values[:, part])
        torch.testing.assert_close(both.filter(values)[:, part], alone, rtol=0, atol=0)
