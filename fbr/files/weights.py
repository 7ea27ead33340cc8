"""Network weights as safetensors, with the description that says what they fit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from fbr.errors import Refusal
from fbr.files.atomic import write_bytes

COUNTER = "num_batches_tracked"


def write(path: Path, network: nn.Module) -> None:
    """Write every parameter and buffer; equal weights give equal bytes."""
    state = {k: v.detach().cpu().contiguous() for k, v in sorted(network.state_dict().items())}
    write_bytes(path, save(state))


def digest(network: nn.Module) -> str:
    """A short name of what a network weighs, its names included."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:12]


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read weights, or say what is wrong with the file."""
    if not path.is_file():
        raise Refusal(f"{path}: missing, expected weights in safetensors format")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise Refusal(
            f"{path}: cannot be read as safetensors ({error}); rerun its stage, or if it is a file "
            "of your own, turn it into safetensors: fbr convert"
        ) from None
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise Refusal(
                f"{path}: tensor '{name}' holds NaN or infinity, expected numbers; train or fetch "
                "it again"
            )
    return state


def read_torch(path: Path) -> dict[str, torch.Tensor]:
    """Read a table of tensors that `torch.save` wrote, and run nothing of what is in the file."""
    if not path.is_file():
        raise Refusal(f"{path}: missing, expected weights that torch.save wrote")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zipfile name a broken file in a dozen ways
        raise Refusal(
            f"{path}: is broken, or holds more than tensors ({type(error).__name__}); expected a "
            "network's state_dict as torch.save writes it"
        ) from None
    whole = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    if not whole or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise Refusal(f"{path}: is no table of tensors by name, expected a network's state_dict")
    return state


def fill(network: nn.Module, state: dict[str, torch.Tensor], source: Path | str) -> None:
    """Load `state` into `network`; anything missing, left over or of another shape is refused."""
    own = network.state_dict()
    missing = [k for k in own if k not in state]
    unknown = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or unknown or shapes:
        first = (missing + unknown + shapes)[0]
        raise Refusal(
            f"{source}: weights of another architecture: {len(missing)} of {len(own)} tensors "
            f"missing, {len(unknown)} unknown, {len(shapes)} of another shape (first: '{first}'); "
            "retrain, or name the network that these weights belong to"
        )
    network.load_state_dict(state)


def take(
    network: nn.Module, state: dict[str, torch.Tensor], least: float, names: Mapping[str, str]
) -> str:
    """Load what fits by name and shape, and say in one line what did and what did not.

    names: of the network's tensors, in the file. A smaller share of them than `least` is refused,
    and nothing loaded. Batch norm's counters, which many files lack, count nowhere.
    """
    own = {k: v for k, v in network.state_dict().items() if not k.endswith(COUNTER)}
    found = {k: state[names[k]] for k in own if names[k] in state}
    fits = {k: v for k, v in found.items() if v.shape == own[k].shape}
    rest = {
        "missing": [names[k] for k in own if k not in found],
        "of another shape": [names[k] for k in found if k not in fits],
        "unexpected": sorted(k for k in state.keys() - names.values() if not k.endswith(COUNTER)),
    }
    said = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in rest.items() if keys]
    report = ", ".join([f"{len(fits)} of {len(own)} tensors matched", *said])
    if len(fits) < least * len(own):
        raise Refusal(
            f"weights: {report}; expected at least {least:.0%}: name the network that they belong "
            "to, or lower least_matched"
        )
    network.load_state_dict(fits, strict=False)
    return report


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
