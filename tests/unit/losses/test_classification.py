import pytest
import torch

from fbr.losses.classification import multilabel_soft_margin
from tests.reference import losses as reference


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float32])
def test_is_the_equation(shape, kind):
    torch.manual_seed(0)
    logits = torch.randn(shape) * 3
    labels = torch.randint(0, 2, shape)
    loss = multilabel_soft_margin(logits, labels.to(kind))
    assert loss.item() == pytest.approx(reference.multilabel_soft_margin(logits, labels), rel=1e-5)


def test_gradient_is_probability_minus_label():
    logits = torch.tensor([[0.5, -2.0], [3.0, 0.0]], requires_grad=True)
    labels = torch.tensor([[1, 0], [1, 1]])
    multilabel_soft_margin(logits, labels).backward()
    assert torch.allclose(logits.grad, (logits.detach().sigmoid() - labels) / 4)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = multilabel_soft_margin(logits, torch.tensor([[0, 1]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert logits.grad.isfinite().all()


def test_half_precision_logits_are_averaged_in_float32():
    logits = torch.full((64, 80), 0.01, dtype=torch.bfloat16)
    loss = multilabel_soft_margin(logits, torch.zeros(64, 80))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(logits[0, 0].float()).item())
