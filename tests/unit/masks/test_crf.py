import sys
from dataclasses import replace

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.masks.crf import Crf, dense_crf, unary_from_labels, unary_from_probabilities
from tests.reference import crf as reference

ONE = Crf(iterations=1)


@pytest.fixture
def scene():
    """An 8×8 image with a bright block, and labels that fit it badly: two classes and one speck."""
    random = np.random.default_rng(0)
    image = np.full((8, 8, 3), 60.0)
    image[2:7, 3:8] = 180
    image = (image + random.normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
    labels = np.zeros((8, 8), np.uint8)
    labels[1:5, 2:7] = 1
    labels[6, 7] = 2
    noise = random.normal(0, 0.3, (3, 8, 8)).astype(np.float32)
    return image, unary_from_labels(labels, 3) + noise


@pytest.mark.parametrize(
    ("settings", "mean", "flips"),
    [
        (replace(ONE, iterations=0), 1e-6, 0),
        (replace(ONE, bilateral_compat=0), 0.005, 0),
        (replace(ONE, gaussian_compat=0), 0.015, 1),
        (ONE, 0.015, 1),
        (Crf(5, gaussian_compat=1, bilateral_compat=2, bilateral_srgb=20), 0.006, 2),
        (Crf(), 0.05, 4),
    ],
)
def test_agrees_with_exact_mean_field(scene, settings, mean, flips):
    """The library filters on a permutohedral lattice, an approximation.

    Tolerances are on the mean probability and on the number of other labels among 64, a little
    above the largest of ten random scenes. In one step, halving the bilateral weight, doubling its
    colour width or exchanging the kernels moves the mean by more than 0.02.
    """
    exact = np.array(reference.mean_field(*scene, settings))
    ours = dense_crf(*scene, settings)
    assert np.abs(ours - exact).mean() < mean
    assert (ours.argmax(axis=0) != exact.argmax(axis=0)).sum() <= flips


def test_pulls_labels_onto_the_edges_of_the_image():
    block = np.zeros((30, 40), np.uint8)
    block[8:24, 10:30] = 1
    image = np.repeat(60 + 120 * block[:, :, None], 3, axis=2)
    shifted = np.roll(block, (3, -3), axis=(0, 1))
    refined = dense_crf(image, unary_from_labels(shifted, 2), Crf()).argmax(axis=0)
    assert (shifted != block).sum() > 100
    assert np.array_equal(refined, block)


def test_probabilities_sum_to_one_and_repeat(scene):
    first = dense_crf(*scene, Crf())
    assert first.dtype == np.float32
    assert np.allclose(first.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(first, dense_crf(*scene, Crf()))


def test_layout_of_the_arrays_does_not_matter(scene):
    image, unary = scene
    image, unary = image[:7], unary[:, :7]
    plain = dense_crf(image.copy(), unary.copy(), Crf())
    frozen = image.copy()
    frozen.flags.writeable = False
    assert np.array_equal(plain, dense_crf(frozen, np.asfortranarray(unary), Crf()))
    assert np.array_equal(plain, dense_crf(np.asfortranarray(image), unary, Crf()))
    flipped = dense_crf(image[::-1].copy(), unary[:, ::-1].copy(), Crf())
    assert np.array_equal(flipped, dense_crf(image[::-1], unary[:, ::-1], Crf()))


def test_inputs_are_left_alone(scene):
    image, unary = scene
    before = image.copy(), unary.copy()
    dense_crf(image, unary, Crf())
    assert np.array_equal(image, before[0])
    assert np.array_equal(unary, before[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("classes", [1, 2, 21])
def test_any_size_and_number_of_classes(size, classes):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    result = dense_crf(image, random.random((classes, *size), np.float32), Crf())
    assert result.shape == (classes, *size)
    assert np.allclose(result.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("huge", [1e4, 1e20, 3e38, np.inf])
def test_huge_energies_give_certainty_not_nan(scene, huge):
    image, unary = scene
    unary = unary.copy()
    unary[1:, :4] = huge
    unary[:, 7] = huge
    unary[0, 5] = -huge
    result = dense_crf(image, unary, Crf())
    assert np.isfinite(result).all()
    assert (result[0, :4] == 1).all()
    assert (result[0, 5] == 1).all()


@pytest.mark.parametrize(
    ("image", "unary", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((2, 4, 6), np.float32), "4×5 but .* 4×6"),
        (np.zeros((4, 5), np.uint8), np.zeros((2, 4, 5), np.float32), r"uint8 \(4, 5\)"),
        (np.zeros((4, 5, 3)), np.zeros((2, 4, 5), np.float32), "float64"),
        (np.zeros((1, 1, 3), np.uint8), np.full((2, 1, 1), np.nan), "NaN"),
    ],
)
def test_refuses_what_it_cannot_refine(image, unary, message):
    with pytest.raises(Refusal, match=message):
        dense_crf(image, unary, Crf())


def test_says_how_to_install_the_library(monkeypatch, scene):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(Refusal, match=r"pip install pydensecrf2.*C\+\+ compiler"):
        dense_crf(*scene, Crf())


def test_unary_from_labels():
    labels = np.array([[0, 2, 255]], np.uint8)
    probabilities = np.exp(-unary_from_labels(labels, 3, 0.6))
    assert probabilities.dtype == np.float32
    expected = [[0.6, 0.2, 1 / 3], [0.2, 0.2, 1 / 3], [0.2, 0.6, 1 / 3]]
    assert np.allclose(probabilities[:, 0], expected)


def test_unary_from_labels_of_one_class_is_finite():
    assert np.isfinite(unary_from_labels(np.array([[0, 255]], np.uint8), 1)).all()


def test_unary_from_probabilities_keeps_zero_possible():
    probabilities = np.array([0, 0.25, 1], np.float16).reshape(3, 1, 1)
    energies = unary_from_probabilities(probabilities, floor=1e-3)
    assert energies.dtype == np.float32
    assert np.allclose(np.exp(-energies).ravel(), [1e-3, 0.25, 1])
