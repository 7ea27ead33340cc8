"""A trained network as an ONNX file for images of any size, checked against the network itself."""

import contextlib
import importlib.util
import io
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fbr import __version__
from fbr.cam.method import Method
from fbr.errors import Refusal
from fbr.files.atomic import write_bytes
from fbr.nets.heads import FullSize
from fbr.nets.photographs import Photographs
from fbr.stages import networks

NEEDED = ("onnx", "onnxscript", "onnxruntime")
CLOSE = 1e-3  # of the largest score: how far the two may be apart
IMAGES = "photographs"


class _Maps(nn.Module):
    """A CAM method that shows its maps at the size of the image."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[2:]
        return self.method.positions.drawn(self.method.maps(images), size, size)


def export(model: Path, target: Path, images: list[np.ndarray]) -> str:
    """Write the ONNX file if it gives these images (H, W, 3) uint8 the scores that torch gives.

    It takes (N, height, width, 3) uint8 in RGB and gives (N, C, height, width) float32: logits of
    0…K, or the maps of 1…K, not normalised. Says how well the two agree.
    """
    network, described = networks.load(model, torch.device("cpu"))
    stage = described["stage"]
    if stage not in ("seg_train", "cam_train"):
        raise Refusal(f"{model}: found a network of {stage}, expected one of seg_train, cam_train")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Refusal(f"export needs {', '.join(missing)}, not found; pip install 'fbr[export]'")
    whole = Photographs(_Maps(network) if stage == "cam_train" else FullSize(network)).eval()
    facts = {
        "classes": json.dumps(described["classes"]),
        "scores": "logits of 0…K" if stage == "seg_train" else "maps of 1…K, not normalised",
        "fbr": __version__,
    }
    content = _onnx(whole, facts)
    worst, agreement = compare(whole, content, images)
    said = f"largest difference {worst:.1e} of the scores, {agreement:.2%} of pixels alike"
    if not worst <= CLOSE:
        raise Refusal(f"{target}: not written: on {len(images)} images, {said}, expected {CLOSE}")
    write_bytes(target, content)
    return said


def _onnx(whole: nn.Module, facts: dict[str, str]) -> bytes:
    sides = {0: "images", 1: "height", 2: "width"}
    shape = {at: torch.export.Dim(name) for at, name in sides.items()}
    # The exporter reports its progress and what it thinks of our versions.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (torch.zeros(2, 64, 72, 3, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=(shape,),
            input_names=[IMAGES],
            output_names=["scores"],
            verbose=False,
        )
    proto = program.model_proto
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    return proto.SerializeToString()


def compare(whole: nn.Module, content: bytes, images: list[np.ndarray]) -> tuple[float, float]:
    """Largest difference over largest score, and the share of pixels whose best class agrees."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst, alike, pixels = 0.0, 0, 0
    for image in images:
        (found,) = session.run(None, {IMAGES: image[None]})
        with torch.inference_mode():
            expected = whole(torch.from_numpy(image[None])).numpy()
        if found.shape != expected.shape:
            return float("inf"), 0.0
        largest = max(float(np.abs(expected).max()), 1e-6)
        # Unlike max, this takes a NaN for the worst that there is.
        worst = float(np.maximum(worst, np.abs(found - expected).max() / largest))
        alike += int((found.argmax(1) == expected.argmax(1)).sum())
        pixels += found.shape[2] * found.shape[3]
    return worst, alike / pixels
