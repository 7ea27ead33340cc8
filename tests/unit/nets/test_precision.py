"""bfloat16 is used where it is asked for and the hardware has it."""

import pytest
import torch

from fbr.nets import precision
from fbr.nets.precision import autocast, has_bfloat16


@pytest.fixture(autouse=True)
def anew():
    has_bfloat16.cache_clear()
    yield
    has_bfloat16.cache_clear()


def has(monkeypatch, built=True, **capabilities) -> bool:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    return has_bfloat16("cpu")


@pytest.mark.parametrize("name", ["amx_bf16", "avx512_bf16", "bf16"])
@pytest.mark.parametrize("there", [True, False])
def test_a_cpu_tells(monkeypatch, name, there):
    assert has(monkeypatch, avx2=True, **{name: there}) is there


def test_a_cpu_of_avx2_alone_has_none(monkeypatch):
    assert not has(monkeypatch, avx2=True)


def test_it_takes_a_torch_that_can_use_it(monkeypatch):
    assert not has(monkeypatch, built=False, bf16=True)
    has_bfloat16.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_bfloat16("cpu")


@pytest.mark.parametrize("emulated", [True, False])
def test_a_gpu_is_asked_for_its_own(monkeypatch, emulated):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: including_emulation or not emulated,
    )
    assert has_bfloat16("cuda") is not emulated


@pytest.mark.parametrize(("there", "asked"), [(True, True), (True, False), (False, True)])
def test_networks_compute_in_it_where_both_hold(monkeypatch, there, asked):
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: there)
    with autocast("cpu", asked):
        out = torch.ones(2, 2) @ torch.ones(2, 2)
    assert out.dtype == (torch.bfloat16 if there and asked else torch.float32)
