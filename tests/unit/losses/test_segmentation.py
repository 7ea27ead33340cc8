import pytest
import torch

from fbr.losses.segmentation import balanced_cross_entropy, cross_entropy
from tests.reference import amn
from tests.reference import losses as reference

SHAPES = [(1, 1, 1, 1), (1, 2, 1, 1), (2, 4, 5, 7), (3, 1, 3, 2)]


def example(shape, kind=torch.uint8, void=0.3):
    """Logits of this shape, with gradient, and a target of the same size with some void pixels."""
    torch.manual_seed(0)
    batch, classes, height, width = shape
    logits = torch.randn(shape, requires_grad=True)
    target = torch.randint(0, classes, (batch, height, width))
    target[torch.rand(target.shape) < void] = 255
    return logits, target.to(kind)


def total(value):
    """What the training loop makes of a part or of several."""
    parts = value.values() if isinstance(value, dict) else [value]
    return sum(loss / count.clamp(min=1) for loss, count in parts)


def mean(values):
    return sum(values) / max(len(values), 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_cross_entropy_is_the_equation(shape, kind):
    logits, target = example(shape, kind)
    exact = [value for _, value in reference.cross_entropies(logits, target)]
    loss, count = cross_entropy(logits, target)
    assert count.item() == len(exact)
    assert loss.item() == pytest.approx(sum(exact), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_balanced_is_the_mean_of_two_means(shape):
    logits, target = example(shape)
    pairs = reference.cross_entropies(logits, target)
    background = [value for label, value in pairs if label == 0]
    foreground = [value for label, value in pairs if label != 0]
    parts = balanced_cross_entropy(logits, target)
    assert parts["background"][1].item() == len(background)
    assert parts["foreground"][1].item() == len(foreground)
    expected = (mean(background) + mean(foreground)) / 2
    assert total(parts).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.4, 0.5])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 4, 5, 7)])
def test_smoothed_targets_are_the_equation(shape, smoothing):
    logits, target = example(shape)
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, shape[1]).tolist()
    expected = amn.balanced(pixels, target.flatten().tolist(), smoothing)
    found = total(balanced_cross_entropy(logits, target, smoothing))
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 12)])
def test_logits_are_resized_to_the_target(size):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, *size)
    _, target = example((2, 3, 5, 7))
    exact = [value for _, value in reference.cross_entropies(logits, target)]
    assert cross_entropy(logits, target)[0].item() == pytest.approx(sum(exact), rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, balanced_cross_entropy])
@pytest.mark.parametrize("size", [(3, 5), (2, 2)])
def test_all_void_is_a_connected_zero(loss, size):
    logits = torch.randn(2, 4, *size, requires_grad=True)
    value = total(loss(logits, torch.full((2, 3, 5), 255, dtype=torch.uint8)))
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_get_no_gradient():
    logits, target = example((2, 4, 5, 7))
    total(balanced_cross_entropy(logits, target)).backward()
    reached = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(reached, target != 255)


@pytest.mark.parametrize("label", [0, 1])
def test_balanced_with_one_side_missing(label):
    logits, _ = example((1, 2, 3, 3))
    target = torch.full((1, 3, 3), label)
    half = total(balanced_cross_entropy(logits, target))
    assert half.item() == pytest.approx(total(cross_entropy(logits, target)).item() / 2)
    half.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [cross_entropy, balanced_cross_entropy])
def test_parts_of_a_batch_add_up_to_the_batch(loss):
    logits, target = example((3, 4, 5, 7))

    def parts(which):
        value = loss(logits[which], target[which])
        value = value if isinstance(value, dict) else {"all": value}
        return torch.tensor([[loss.item(), count.item()] for loss, count in value.values()])

    whole = parts(slice(None))
    assert torch.allclose(parts(slice(1)) + parts(slice(1, 3)), whole)
    assert torch.allclose(parts([2, 0, 1]), whole)


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    loss, count = cross_entropy(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert (loss / count).item() == pytest.approx(0.6931472)
