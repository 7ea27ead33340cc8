import sys
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from scipy.ndimage import gaussian_filter

from fbr.errors import Refusal
from fbr.masks.crf import Crf, dense_crf, dense_crfs, unary_from_labels, unary_from_probabilities
from tests.reference import crf as reference

ONE = Crf(iterations=1)
ENGINES = ("numba", "torch", "pydensecrf")
# Published settings by whose they are.
NAMED = {
    "irn": Crf(),
    "ppc": Crf(iterations=5, bilateral_sxy=80, bilateral_srgb=13),
    "affinitynet": Crf(bilateral_sxy=80, bilateral_srgb=13),
    "deeplab": Crf(gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4),
}


@pytest.fixture(params=ENGINES)
def crf(request):
    """The default settings under every engine."""
    return Crf(engine=request.param)


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


@pytest.mark.parametrize("engine", ENGINES)
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
def test_agrees_with_exact_mean_field(scene, settings, mean, flips, engine):
    """All engines filter on a permutohedral lattice, an approximation.

    Tolerances are on the mean probability and on the number of other labels among 64, a little
    above the largest of ten random scenes. In one step, halving the bilateral weight, doubling its
    colour width or exchanging the kernels moves the mean by more than 0.02.
    """
    exact = np.array(reference.mean_field(*scene, settings))
    found = dense_crf(*scene, replace(settings, engine=engine))
    assert np.abs(found - exact).mean() < mean
    assert (found.argmax(axis=0) != exact.argmax(axis=0)).sum() <= flips


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_engines_agree(name, classes):
    """They build the same lattice: what differs is the order of sums in single precision."""
    random = np.random.default_rng(classes)
    image = random.normal(128, 60, (3, 45, 61))
    image = gaussian_filter(image, (0, 3, 3)) * 4 - 384 + random.normal(0, 8, image.shape)
    image = image.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    labels = gaussian_filter(random.normal(size=(classes, 45, 61)), (0, 5, 5)).argmax(axis=0)
    unary = unary_from_labels(labels, classes, confidence=0.55)
    ours, *others = (dense_crf(image, unary, replace(NAMED[name], engine=e)) for e in ENGINES)
    assert (ours.argmax(axis=0) != labels).any()
    for theirs in others:
        assert np.abs(ours - theirs).mean() < 1e-4
        assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("photograph", ["astronaut", "coffee", "chelsea"])
@pytest.mark.parametrize("name", ["irn", "ppc"])
def test_engines_agree_on_photographs(name, photograph):
    image = np.ascontiguousarray(getattr(skimage.data, photograph)()[::3, ::3])
    labels = np.zeros(image.shape[:2], np.uint8)
    labels[30:90, 40:110], labels[60:, 90:] = 1, 2
    unary = unary_from_labels(labels, 3)
    ours, *others = (dense_crf(image, unary, replace(NAMED[name], engine=e)) for e in ENGINES)
    assert (ours.argmax(axis=0) != labels).mean() > 0.05
    for theirs in others:
        assert np.abs(ours - theirs).mean() < 1e-4
        assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() > 0.999


def test_engines_agree_where_most_classes_are_unlikely(scene):
    """As in a network's scores; what one of them leaves out changes no score by 0.01."""
    image, unary = scene
    random = np.random.default_rng(0)
    unlikely = -np.log(random.uniform(1e-5, 2e-3, (18, 8, 8)))
    unary = np.insert(unlikely, [0, 7, 18], unary, axis=0)
    ours, *others = (dense_crf(image, unary, Crf(engine=engine)) for engine in ENGINES)
    for theirs in others:
        assert np.abs(ours - theirs).max() < 0.01
        assert np.array_equal(ours.argmax(axis=0), theirs.argmax(axis=0))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_image_gives_nothing(engine):
    assert dense_crfs([], [], Crf(engine=engine)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_images_and_unaries_together_give_what_they_give_alone(scene, engine):
    """Of other sizes and classes; the images are alike, so one that heard another would show it."""
    image, unary = scene
    settings = Crf(5, gaussian_compat=1, bilateral_compat=2, engine=engine)
    random = np.random.default_rng(1)
    images = [image, image[:5], image[:, :1], image]
    unaries = [
        random.normal(size=(2, classes, *i.shape[:2])).astype(np.float32)
        for i, classes in zip(images, (3, 1, 4, 2), strict=True)
    ]
    unaries[0][0] = unary
    unaries[3][:, :, 3] = np.inf
    for i, energies, found in zip(
        images, unaries, dense_crfs(images, unaries, settings), strict=True
    ):
        assert found.dtype == np.float32
        for energy, belief in zip(energies, found, strict=True):
            np.testing.assert_allclose(belief, dense_crf(i, energy, settings), atol=1e-5)


def test_pulls_labels_onto_the_edges_of_the_image(crf):
    block = np.zeros((30, 40), np.uint8)
    block[8:24, 10:30] = 1
    image = np.repeat(60 + 120 * block[:, :, None], 3, axis=2)
    shifted = np.roll(block, (3, -3), axis=(0, 1))
    refined = dense_crf(image, unary_from_labels(shifted, 2), crf).argmax(axis=0)
    assert (shifted != block).sum() > 100
    assert np.array_equal(refined, block)


def test_probabilities_sum_to_one_and_repeat(scene, crf):
    first = dense_crf(*scene, crf)
    assert first.dtype == np.float32
    assert np.allclose(first.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(first, dense_crf(*scene, crf))


def test_layout_of_the_arrays_does_not_matter(scene, crf):
    image, unary = scene
    image, unary = image[:7], unary[:, :7]
    plain = dense_crf(image.copy(), unary.copy(), crf)
    frozen = image.copy()
    frozen.flags.writeable = False
    assert np.array_equal(plain, dense_crf(frozen, np.asfortranarray(unary), crf))
    assert np.array_equal(plain, dense_crf(np.asfortranarray(image), unary, crf))
    flipped = dense_crf(image[::-1].copy(), unary[:, ::-1].copy(), crf)
    assert np.array_equal(flipped, dense_crf(image[::-1], unary[:, ::-1], crf))


def test_inputs_are_left_alone(scene, crf):
    image, unary = scene
    before = image.copy(), unary.copy()
    dense_crf(image, unary, crf)
    assert np.array_equal(image, before[0])
    assert np.array_equal(unary, before[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("classes", [1, 2, 21])
def test_any_size_and_number_of_classes(size, classes, crf):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    result = dense_crf(image, random.random((classes, *size), np.float32), crf)
    assert result.shape == (classes, *size)
    assert np.allclose(result.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("huge", [1e4, 1e20, 3e38, np.inf])
def test_huge_energies_give_certainty_not_nan(scene, huge, crf):
    image, unary = scene
    unary = unary.copy()
    unary[1:, :4] = huge
    unary[:, 7] = huge
    unary[0, 5] = -huge
    result = dense_crf(image, unary, crf)
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


@pytest.mark.parametrize(
    ("engine", "modules", "message"),
    [
        ("numba", ["numba", "fbr.masks.lattice"], "numba.* or choose `engine: torch`"),
        ("pydensecrf", ["pydensecrf"], r"pip install pydensecrf2.*C\+\+ compiler.*`engine: numba`"),
    ],
)
def test_says_how_to_install_what_is_missing(monkeypatch, engine, modules, message):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Refusal, match=message):
        # A size of its own, for which no kernel is kept.
        dense_crf(np.zeros((2, 9, 3), np.uint8), np.zeros((2, 2, 9)), Crf(engine=engine))


def test_a_kept_kernel_is_not_taken_for_another_image(scene):
    image, unary = scene
    first = dense_crf(image, unary, Crf())
    other = dense_crf(255 - image // 2, unary, Crf())
    assert not np.allclose(first, other)
    changed = image.copy()
    assert np.array_equal(dense_crf(changed, unary, Crf()), first)
    changed[:] = 255 - image // 2
    assert np.array_equal(dense_crf(changed, unary, Crf()), other)
    wider = replace(Crf(), bilateral_sxy=80)
    assert np.array_equal(dense_crf(image.copy(), unary, wider), dense_crf(image, unary, wider))
    assert not np.array_equal(dense_crf(image, unary, wider), first)


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
