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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(file, value):
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight[1, 2] = value
    weights.write(file, network)
    with pytest.raises(Refusal, match="tensor 'weight' holds NaN or infinity"):
        weights.read(file)


def test_a_pickle_is_refused(file):
    torch.save(network().state_dict(), file)
    with pytest.raises(Refusal, match="cannot be read as safetensors"):
        weights.read(file)


def own(network: nn.Module) -> dict[str, str]:
    return {key: key for key in network.state_dict()}


def test_what_fits_is_taken_and_told():
    source, target = network(), network()
    nn.init.zeros_(target[0].weight)
    assert weights.take(target, source.state_dict(), 1.0, own(target)) == "8 of 8 tensors matched"
    assert torch.equal(target[0].weight, source[0].weight)


def test_names_lead_to_the_tensors_of_a_file():
    source, target = network(), network()
    nn.init.zeros_(target[0].weight)
    state = {f"theirs.{k}": v for k, v in source.state_dict().items()}
    names = {k: f"theirs.{k}" for k in target.state_dict()}
    assert weights.take(target, state, 1.0, names) == "8 of 8 tensors matched"
    assert torch.equal(target[0].weight, source[0].weight)


def test_what_does_not_fit_is_told_and_left_alone():
    target, state = network(), network().state_dict()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = {k: v + 1 for k, v in state.items() if not k.startswith("2.")}
    state |= {"0.bias": torch.zeros(4), "a": torch.ones(1), "a.num_batches_tracked": torch.ones(1)}
    report = weights.take(target, state, 0.5, own(target))
    assert report == (
        "5 of 8 tensors matched, 2 missing (2.weight, 2.bias), 1 of another shape (0.bias), "
        "1 unexpected (a)"
    )
    assert all(torch.equal(target.state_dict()[k], before[k]) for k in ("0.bias", "2.weight"))
    assert torch.equal(target[1].running_mean, before["1.running_mean"] + 1)


def test_too_little_is_refused_and_nothing_taken():
    target = network()
    before = target[0].weight.clone()
    state = {k: v + 1 for k, v in target.state_dict().items() if k != "1.bias"}
    with pytest.raises(Refusal, match=r"7 of 8 tensors .*, 1 missing \(1.bias\); .* least 90%"):
        weights.take(target, state, 0.9, own(target))
    assert torch.equal(target[0].weight, before)
    assert weights.take(target, state, 7 / 8, own(target))


def test_many_names_are_cut_short():
    target = network()
    report = weights.take(target, {}, 0, own(target))
    assert report == "0 of 8 tensors matched, 8 missing (0.weight, 0.bias, 1.weight, …)"


def test_a_digest_tells_weights_and_statistics_apart():
    def network(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    one, same, other = network(0), network(0), network(1)
    assert weights.digest(one) == weights.digest(same) != weights.digest(other)
    same[1].num_batches_tracked += 1
    assert weights.digest(one) != weights.digest(same)
