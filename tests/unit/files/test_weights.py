"""Weights on disk, and what does not fit a network."""

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.files import weights


def network(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 1, 1)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


def test_weights_and_buffers_come_back(file):
    written = network()
    written[1].running_mean.fill_(0.25)
    weights.write(file, written)
    read = network()
    nn.init.zeros_(read[0].weight)
    weights.fill(read, weights.read(file), file)
    for (name, a), b in zip(written.state_dict().items(), read.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_equal_weights_are_equal_bytes(file):
    weights.write(file, network())
    before = file.read_bytes()
    weights.write(file, network().to(memory_format=torch.contiguous_format))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"3.weight": torch.zeros(1)}, r"0 of 9 .* 1 unknown, .* \(first: '3.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "1.bias"}, r"1 of 9 .* \(first: '1.bias'"),
        (lambda s: s | {"0.bias": torch.zeros(4)}, r"1 of another shape \(first: '0.bias'\)"),
        (lambda s: {}, "9 of 9 tensors missing"),
    ],
)
def test_another_architecture_is_refused_and_nothing_loaded(change, said):
    target = network()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = change({k: v + 1 for k, v in before.items()})
    with pytest.raises(Refusal, match=f"^cam: weights of another architecture: .*{said}"):
        weights.fill(target, state, "cam")
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_a_wider_network_is_refused(file):
    weights.write(file, network(5))
    with pytest.raises(Refusal, match="7 of another shape"):
        weights.fill(network(3), weights.read(file), file)


def test_a_missing_file_is_refused(file):
    with pytest.raises(Refusal, match="missing, expected weights in safetensors format"):
        weights.read(file)


@pytest.mark.parametrize("part", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(file, part):
    weights.write(file, network())
    file.write_bytes(file.read_bytes()[:part])
    with pytest.raises(Refusal, match=r"cannot be read as safetensors .* rerun its stage"):
        weights.read(file)


def test_a_pickle_is_refused(file):
    torch.save(network().state_dict(), file)
    with pytest.raises(Refusal, match="cannot be read as safetensors"):
        weights.read(file)
