import pytest
import torch
from torch.nn import functional as F

from fbr.losses.segmentation import (
    LOSSES,
    balanced_cross_entropy,
    cross_entropy,
    local_pool,
    weighted,
)
from fbr.params import Hard, LocalPool, LossOptions
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
    means = [(loss / count.clamp(min=1), root) for loss, count, *root in parts]
    return sum(mean ** (1 / root[0]) if root else mean for mean, root in means)


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
    spread = LossOptions(smoothing=smoothing * shape[1] / (shape[1] - 1))  # over all classes
    found = total(balanced_cross_entropy(logits, target, spread))
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, balanced_cross_entropy])
def test_all_void_is_a_connected_zero(loss):
    logits = torch.randn(2, 4, 3, 5, requires_grad=True)
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


POOL = LocalPool(window=3, sigma=1.0)
OPTIONS = {
    "plain": LossOptions(),
    "smoothing": LossOptions(smoothing=0.2),
    "pool": LossOptions(pool=POOL),
    "pool of probs": LossOptions(pool=LocalPool(window=5, sigma=0.7, space="probs")),
    "minkowski": LossOptions(power=5.0),
    "lal": LossOptions(pool=POOL, power=2.0),
    "hard": LossOptions(hard=Hard(below=0.3)),
    "hardest": LossOptions(hard=Hard(below=0.0, at_least=0.25)),
    "all": LossOptions(
        smoothing=0.1, pool=POOL, hard=Hard(below=0.2, at_least=0.5), power=3.0, grid="logits"
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_the_equations(shape, name):
    logits, target = example(shape)
    options = OPTIONS[name]
    found = reference.pixel_losses(logits, target, options)
    loss = cross_entropy(logits, target, options)
    assert loss[1].item() == len(found)
    exact = reference.minkowski([value for _, _, value in found], options.power)
    assert total(loss).item() == pytest.approx(exact, rel=1e-5, abs=2e-6)
    sides = [[v for _, label, v in found if (label > 0) == side] for side in (False, True)]
    exact = sum(reference.minkowski(side, options.power) for side in sides) / 2
    balanced = total(balanced_cross_entropy(logits, target, options))
    assert balanced.item() == pytest.approx(exact, rel=1e-5, abs=4e-6)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_options_leave_all_void_a_connected_zero(loss, name):
    logits = torch.randn(2, 4, 3, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 3, 5), 255, dtype=torch.uint8), OPTIONS[name])
    sums = sum(part[0] for part in value.values())
    sums.backward()
    assert sums.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", OPTIONS)
def test_options_split_over_a_batch_and_see_no_order(name):
    logits, target = example((3, 4, 5, 7))

    def parts(which):
        return torch.stack(cross_entropy(logits[which], target[which], OPTIONS[name])[:2])

    whole = parts(slice(None))
    assert torch.allclose(parts(slice(1)) + parts(slice(1, 3)), whole)
    assert torch.allclose(parts([2, 0, 1]), whole)
    flipped = cross_entropy(logits.flip(3), target.flip(2), OPTIONS[name])
    assert torch.allclose(torch.stack(flipped[:2]), whole)


def test_a_window_of_one_and_a_power_of_one_are_plain_cross_entropy():
    logits, target = example((2, 4, 5, 7))
    one = LossOptions(pool=LocalPool(window=1, sigma=1.0), power=1.0)
    plain, other = cross_entropy(logits, target), cross_entropy(logits, target, one)
    assert torch.equal(plain[0], other[0])
    gradients = [torch.autograd.grad(part[0], logits)[0] for part in (plain, other)]
    assert torch.equal(*gradients)


def test_smoothing_is_torchs():
    logits, target = example((2, 4, 5, 7))
    loss, count = cross_entropy(logits, target, LossOptions(smoothing=0.3))
    kwargs = {"ignore_index": 255, "label_smoothing": 0.3}
    assert torch.allclose(loss / count, F.cross_entropy(logits, target.long(), **kwargs))


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (5, 4)])
def test_pooling_is_the_sum_over_neighbours_and_so_is_its_gradient(window, size):
    torch.manual_seed(0)
    values = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    _, target = example((2, 3, *size))
    found = local_pool(values, target, window, 0.8)
    for image, labels, planes in zip(found, target.tolist(), values.tolist(), strict=True):
        exact = torch.tensor(reference.pooled(planes, labels, window, 0.8))
        assert torch.allclose(image, exact.double(), atol=1e-6)
    assert torch.autograd.gradcheck(lambda v: local_pool(v, target, window, 0.8), values)


def test_pooling_keeps_to_its_label_and_leaves_constants_alone():
    _, target = example((2, 3, 6, 7), void=0.0)
    values = F.one_hot(target.long()).permute(0, 3, 1, 2).float()
    assert torch.equal(local_pool(values, target, 5, 2.0), values)


def test_a_power_leans_towards_the_worst_pixel():
    logits, target = example((2, 4, 5, 7))
    worst = max(value for _, value in reference.cross_entropies(logits, target))
    values = [
        total(cross_entropy(logits, target, LossOptions(power=k))).item() for k in (1.0, 2.0, 5.0)
    ]
    assert values == sorted(values)
    assert values[-1] < worst


def test_of_hard_pixels_only_those_learn():
    logits, target = example((1, 4, 5, 7))
    loss, count = cross_entropy(logits, target, LossOptions(hard=Hard(below=0, at_least=0.1)))
    loss.backward()
    reached = logits.grad.abs().sum(dim=1) > 0
    assert reached.sum() == count == -(-(target != 255).sum() // 10)
    easy = logits.detach().softmax(1).gather(1, target.clamp(max=3).long()[:, None])[:, 0]
    assert easy[reached].max() <= easy[~reached & (target != 255)].min()


@pytest.mark.parametrize("at_least", [0.0, 1.0])
def test_all_or_no_pixels_can_be_hard(at_least):
    logits, target = example((2, 4, 5, 7))
    options = LossOptions(hard=Hard(below=0.0, at_least=at_least))
    loss, count = cross_entropy(logits, target, options)
    assert count == at_least * (target != 255).sum()
    assert loss == at_least * cross_entropy(logits, target)[0]


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_a_weight_multiplies_the_loss(power):
    logits, target = example((2, 4, 5, 7))
    part = cross_entropy(logits, target, LossOptions(power=power))
    assert total(weighted(part, 0.4)).item() == pytest.approx(0.4 * total(part).item())
