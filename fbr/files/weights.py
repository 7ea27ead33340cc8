"""Network weights as safetensors, with the description that says what they fit."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from fbr.errors import Refusal
from fbr.files.atomic import write_bytes


def write(path: Path, network: nn.Module) -> None:
    """Write every parameter and buffer; equal weights give equal bytes."""
    state = {k: v.detach().cpu().contiguous() for k, v in sorted(network.state_dict().items())}
    write_bytes(path, save(state))


def read(path: Path) -> dict[str, torch.Tensor]:
    """Read weights, or say what is wrong with the file."""
    if not path.is_file():
        raise Refusal(f"{path}: missing, expected weights in safetensors format")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Refusal(f"{path}: cannot be read as safetensors ({error}); rerun its stage") from None


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
