"""The state of an unfinished training: one file, replaced whole, loaded without pickled code."""

import io
import logging
from pathlib import Path
from typing import Any

import torch

from fbr.files.atomic import write_bytes

log = logging.getLogger("fbr")


def save(path: Path, key: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) under the fingerprint of the work it belongs to."""
    content = io.BytesIO()
    torch.save({"key": key, **state}, content)
    write_bytes(path, content.getvalue())


def load(path: Path, key: str) -> dict[str, Any] | None:
    """Read the state, or None where there is none for this work: then training starts afresh."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names a broken file in a dozen ways
        log.warning(
            "%s cannot be read (%s): training starts afresh", path.name, type(error).__name__
        )
        return None
    if state.pop("key", None) != key:
        log.info(
            "numbers, inputs or code changed since the last checkpoint: training starts afresh"
        )
        return None
    return state
