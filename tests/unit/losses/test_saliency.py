"""EPS's loss against one pixel at a time, a case by hand, and where nothing is shown or salient."""

import pytest
import torch

from fbr.losses.saliency import explicit_pseudo_pixels
from tests.reference import eps as twin

SIZES = [(1, 2, 1, 1), (2, 3, 4, 5), (3, 2, 7, 3)]


def example(images, classes, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, 1 + classes, height, width, generator=generator)
    saliency = torch.rand(images, height, width, generator=generator)
    labels = torch.randint(0, 2, (images, classes), generator=generator).float()
    labels[:, 0] = 1
    return logits, saliency, labels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("threshold", "balance"), [(0.4, 0.5), (0.0, 0.3), (1.0, 0.8)])
def test_loss_and_gradient_are_the_equation(size, threshold, balance):
    logits, saliency, labels = example(*size)
    leaf, exact = logits.requires_grad_(), logits.detach().double().flatten(2).requires_grad_()
    found = explicit_pseudo_pixels(leaf.softmax(1), saliency, labels, threshold, balance)
    flat = saliency.double().flatten(1)
    expected = twin.loss(exact, flat, labels.tolist(), threshold, balance)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad.flatten(2).double(), exact.grad, atol=1e-6, rtol=1e-4)
    assert leaf.grad.any()


def sure(seeds: list[str]) -> torch.Tensor:
    """Logits (1, 3, 4, 4) that are certain of the id drawn at each pixel."""
    ids = torch.tensor([[int(c) for c in row] for row in seeds])
    return 60.0 * torch.nn.functional.one_hot(ids, 3).permute(2, 0, 1)[None]


GROUND = ["1100", "1100", "0022", "0222"]
SALIENT = ["1100", "1100", "0000", "0001"]


@pytest.mark.parametrize(
    ("labels", "threshold", "wrong"),
    [
        # Class 1 is salient, class 2 by a fifth: it is ground, and one salient pixel stays unmet.
        ([1, 1], 0.4, ["0000", "0000", "0000", "0001"]),
        # Two tenths are enough for a lower threshold: four pixels shine that should not.
        ([1, 1], 0.1, ["0000", "0000", "0022", "0220"]),
        # A class that the image does not show is neither: half of the target.
        ([1, 0], 0.4, ["0000", "0000", "0011", "0111"]),
    ],
)
def test_four_by_four_by_hand(labels, threshold, wrong):
    saliency = torch.tensor([[float(c) for c in row] for row in SALIENT])[None]
    found = explicit_pseudo_pixels(
        sure(GROUND).softmax(1), saliency, torch.tensor([labels]).float(), threshold, 0.5
    )
    if labels == [1, 0]:  # there Ŝ = ½ · 0 + ½ (1 - 0)
        expected = 5 * 0.25 / 16
    else:
        expected = sum(c != "0" for row in wrong for c in row) / 16
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shown", [0, 1])
@pytest.mark.parametrize("salient", [0.0, 1.0])
def test_nothing_or_everything_is_finite_and_connected(shown, salient):
    logits, saliency, labels = example(2, 3, 4, 4)
    leaf = logits.requires_grad_()
    loss = explicit_pseudo_pixels(
        leaf.softmax(1), saliency * 0 + salient, labels * 0 + shown, 0.4, 0.5
    )
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.any()


def test_absent_classes_are_all_alike():
    logits, saliency, labels = example(1, 4, 5, 5)
    labels = torch.tensor([[0.0, 1, 0, 1]])
    moved = logits[:, [0, 3, 2, 1, 4]]  # the absent 1 and 3 change places
    one, other = (
        explicit_pseudo_pixels(given.softmax(1), saliency, labels, 0.4, 0.5)
        for given in (logits, moved)
    )
    assert other.item() == pytest.approx(one.item())
