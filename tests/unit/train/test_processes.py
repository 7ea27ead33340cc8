"""One process among several: shares of a batch, and batch norm over all of it."""

import ctypes
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fbr.nets.backbones import FrozenStatistics
from fbr.train.processes import (
    Processes,
    SharedStatistics,
    joined,
    keep_memory,
    share_statistics,
)


@pytest.fixture
def alone_in_a_group(tmp_path):
    """A group of one, so that collectives run."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def norms(channels: int = 5) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """Torch's, and ours with the same weights."""
    torch.manual_seed(0)
    torchs, ours = nn.BatchNorm2d(channels, momentum=0.3), nn.BatchNorm2d(channels, momentum=0.3)
    for tensor in (torchs.weight, torchs.bias, torchs.running_mean):
        nn.init.normal_(tensor)
    ours.load_state_dict(torchs.state_dict())
    share_statistics(ours)
    assert type(ours) is SharedStatistics
    return torchs, ours


SHAPES = [(4, 5, 6, 7), (2, 5, 1, 1), (1, 5, 3, 3), (3, 5, 1, 8)]


@pytest.mark.usefixtures("alone_in_a_group")
class TestSharedStatistics:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_is_torchs_forward_and_backward(self, shape, offset):
        torchs, ours = norms()
        results = []
        for norm in (torchs, ours):
            torch.manual_seed(1)
            for _ in range(3):
                x = (torch.randn(shape) + offset).requires_grad_()
                y = norm(x)
                (y * torch.randn(shape)).sum().backward()
            results.append([y, x.grad, norm.weight.grad, norm.bias.grad])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-5 * (1 + offset), rtol=1e-4)
        for name, value in torchs.state_dict().items():
            assert torch.allclose(value, ours.state_dict()[name], rtol=1e-5), name

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_keeps_type_and_layout(self, layout):
        _, ours = norms()
        x = torch.randn(4, 5, 6, 7).to(memory_format=layout)
        assert ours(x).is_contiguous(memory_format=layout)
        assert ours(x.bfloat16()).dtype == torch.bfloat16

    def test_of_bfloat16_is_torchs(self):
        torchs, ours = norms()
        x = torch.randn(4, 5, 6, 7).bfloat16()
        assert torch.allclose(torchs(x).float(), ours(x).float(), atol=0.05)
        assert torch.allclose(torchs.running_var, ours.running_var, rtol=1e-5)

    def test_uses_what_it_has_learnt_in_eval_mode(self):
        torchs, ours = norms()
        x = torch.randn(4, 5, 6, 7)
        assert torch.equal(torchs.eval()(x), ours.eval()(x))


def test_statistics_that_are_frozen_are_not_shared():
    network = nn.Sequential(
        nn.BatchNorm2d(2), FrozenStatistics(2), nn.Sequential(nn.BatchNorm2d(3))
    )
    share_statistics(network)
    kinds = [type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kinds == [SharedStatistics, FrozenStatistics, SharedStatistics]


def test_one_process_is_the_sum_and_the_only_voice(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    threads = torch.get_num_threads()
    with joined(1) as alone:
        assert (alone.rank, alone.world, alone.first) == (0, 1, True)
        values = torch.ones(2)
        assert alone.sum(values) is values
        assert alone.share(6, 3) == 2
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_only_rank_zero_is_first():
    assert not Processes(1, 2, torch.device("cpu")).first


LEFT = """
import torch
from fbr.train.processes import keep_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

{keep}
before = resident()
torch.ones(50 << 18).sum()
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.parametrize(("keep", "expected"), [("keep_memory()", True), ("", False)])
def test_what_is_freed_is_kept(keep, expected):
    code = LEFT.format(keep=keep)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert (int(found.stdout) > 40 << 10) == expected  # of 50 MB, in kB


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_memory()
