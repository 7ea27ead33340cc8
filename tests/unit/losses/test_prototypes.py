"""PPC's losses against one pixel at a time, the choice of the semi-hard, and empty classes."""

import pytest
import torch
import torch.nn.functional as F

from fbr.losses.prototypes import hard_pixels, prototype_entropy, semi_hard_entropy
from tests.reference import ppc as twin

TAU = 0.1
KNOWN = {"all": [1, 1, 1, 1, 1], "some": [1, 0, 1, 0, 1], "one": [0, 0, 1, 0, 0], "none": [0] * 5}


def example(rows=12, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(rows, width, generator=generator)
    centres = torch.randn(5, width, generator=generator)
    return pixels, torch.randint(0, 5, (rows,), generator=generator), centres


def compared(pixels, labels, centres, known, found_of, expected_of):
    """Both losses, weighted row by row, and their gradients with respect to the pixels."""
    known = torch.tensor(KNOWN[known]) > 0
    leaf, exact = pixels.clone().requires_grad_(), pixels.double().requires_grad_()
    cosines = F.normalize(leaf, dim=1) @ F.normalize(centres * known[:, None], dim=1).mT
    found = found_of(cosines, labels, known)
    there = [c.double() if k else None for c, k in zip(centres, known, strict=True)]
    expected = torch.stack(
        [expected_of(z, c, there) for z, c in zip(exact, labels.tolist(), strict=True)]
    )
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.arange(1.0, 1 + len(pixels))
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)
    assert bool(leaf.grad.any()) == (known.sum() > 1)


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("rows", [1, 12])
def test_prototype_entropy_and_its_gradient_are_the_equation(known, rows):
    pixels, labels, centres = example(rows)
    labels[0] = 2
    compared(
        *(pixels, labels, centres, known),
        lambda cosines, labels, known: prototype_entropy(cosines, labels, known, TAU),
        lambda z, c, there: twin.contrast(z, c, there, TAU),
    )


@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize(("hard", "kept"), [(0.6, 0.5), (1.0, 1.0), (0.5, 0.5), (1.0, 0.1)])
def test_semi_hard_entropy_and_its_gradient_are_the_equation(known, hard, kept):
    def expected(z, c, there):
        return twin.contrast(z, c, there, TAU, twin.semi_hard(z, c, there, hard, kept))

    pixels, labels, centres = example()
    labels[0] = 2
    compared(
        *(pixels, labels, centres, known),
        lambda cosines, labels, known: semi_hard_entropy(cosines, labels, known, hard, kept, TAU),
        expected,
    )


def test_of_twenty_negatives_ten_count_and_the_two_nearest_do_not():
    """The numbers of the paper: 60 % are hard, 50 % are kept."""
    cosines = torch.linspace(0.9, -0.9, 21)[None].requires_grad_()
    labels, known = torch.tensor([20]), torch.ones(21).bool()
    semi_hard_entropy(cosines, labels, known, 0.6, 0.5, TAU).backward()
    assert cosines.grad[0].nonzero().flatten().tolist() == [*range(2, 12), 20]


def test_all_negatives_and_nothing_left_out_is_the_plain_loss():
    pixels, labels, centres = example()
    cosines = F.normalize(pixels, dim=1) @ F.normalize(centres, dim=1).mT
    known = torch.ones(5).bool()
    one = semi_hard_entropy(cosines, labels, known, 1.0, 1.0, TAU)
    torch.testing.assert_close(one, prototype_entropy(cosines, labels, known, TAU))


@pytest.mark.parametrize("rows", [1, 2, 3, 40])
@pytest.mark.parametrize(("hard", "kept"), [(0.6, 0.5), (0.7, 0.7), (1.0, 0.2)])
def test_hard_pixels_are_those_of_the_equation(rows, hard, kept):
    generator = torch.Generator().manual_seed(rows)
    cosines, uniform = torch.rand(2, rows, generator=generator)
    labels = torch.randint(0, 4, (rows,), generator=generator)
    found = hard_pixels(cosines, labels, 5, hard, kept, uniform)
    expected = twin.hard_pixels(cosines.tolist(), labels.tolist(), hard, kept, uniform.tolist())
    assert found.tolist() == expected


def test_chance_takes_all_pixels_of_a_class_alike():
    generator = torch.Generator().manual_seed(0)
    cosines, labels = torch.arange(10.0), torch.tensor([0] * 6 + [2] * 4)
    total = torch.zeros(10)
    for _ in range(600):
        uniform = torch.rand(10, generator=generator)
        total += hard_pixels(cosines, labels, 3, 0.0, 0.5, uniform)
    assert total.sum() == 600 * 5
    torch.testing.assert_close(total / 600, torch.full((10,), 0.5), atol=0.08, rtol=0)
