"""`fbr export`: a trained network as an ONNX file, checked against torch."""

import argparse
from pathlib import Path

import numpy as np

from fbr.workspace import Workspace

CHECKED = 10
SIZES = [(64, 64), (33, 91), (128, 40), (1, 1), (97, 97), (60, 80), (75, 50), (48, 200), (31, 32)]


def main(argv: list[str], workspace: Workspace) -> int:
    """Write a segmentation or CAM network as ONNX, for batches of images of any size.

    The file takes RGB photographs as they are, uint8 (N, height, width, 3), and gives scores
    (N, classes, height, width). It is written only if onnxruntime gives what torch gives.
    """
    parser = argparse.ArgumentParser(prog="fbr export", description=main.__doc__)
    parser.add_argument("model", help="model.safetensors of a cam or seg_train, or its folder")
    parser.add_argument("target", help="as network.onnx")
    parser.add_argument("images", nargs="*", help=f"to check it on, the first {CHECKED}; or noise")
    chosen = parser.parse_args(argv)
    # Not at the top: they bring torch, and the command line starts without.
    from fbr.files import pictures
    from fbr.stages import given

    model = given.model(chosen.model)
    paths = list(given.photographs(chosen.images)[1].values())[:CHECKED]
    images = [pictures.read_upright(path) for path in paths] or _noise()
    from fbr.stages import exporting

    said = exporting.export(model, Path(chosen.target), images)
    kind = "images" if paths else "pictures of noise"
    print(f"{chosen.target}: as torch on {len(images)} {kind}: {said}")
    return 0


def _noise() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in [*SIZES, (240, 320)]]
