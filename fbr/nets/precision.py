"""bfloat16 where the hardware has it."""

from functools import cache

import torch


def autocast(kind: str, bfloat16: bool) -> torch.autocast:
    """Compute in bfloat16 on a device of this kind, if that is asked for and it can."""
    return torch.autocast(kind, torch.bfloat16, enabled=bfloat16 and has_bfloat16(kind))


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether a device of this kind, "cpu" or "cuda", computes in bfloat16 by itself.

    Where it is emulated it costs time instead of saving it: on a CPU with nothing past AVX2 a
    training step of MobileNet-V2 takes fifteen times that of float32.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    own = any(can.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last is Arm's
    return own and torch.backends.mkldnn.is_available()
