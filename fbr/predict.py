"""`fbr predict`: masks, maps or instances of any photographs by a trained network."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from fbr import engines, params
from fbr.workspace import Workspace


def main(argv: list[str], workspace: Workspace) -> int:
    """Apply a trained network to photographs; started again, it does what is missing.

    A network under results/ is applied with the numbers that params.yaml evaluates it with.
    """
    chosen = _parser().parse_args(argv)
    # Not at the top: they bring torch, and the command line starts without.
    from fbr.stages import given

    model = given.model(chosen.model)
    entries, paths = given.photographs(chosen.images)
    from fbr.stages import predicting

    asked = predicting.Asked(
        Path(chosen.out),
        chosen.batch,
        chosen.format,
        chosen.overlays,
        chosen.classes,
        dict(chosen.numbers),
    )
    with engines.one_gpu(workspace, 1):
        predicting.predict(model, entries, paths, asked, workspace)
    print(f"{chosen.out}: {len(entries)} images")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fbr predict", description=main.__doc__)
    parser.add_argument(
        "model", help="model.safetensors of a cam, seg or wsis_train, or its folder"
    )
    parser.add_argument("images", nargs="+", help="files, folders, or patterns as 'a/**/*.jpg'")
    parser.add_argument("--out", default="predictions", metavar="FOLDER", help="%(default)s")
    parser.add_argument("--format", metavar="F", help="of masks: png (palette) or rle (COCO)")
    parser.add_argument("--overlays", action="store_true", help="draw what is found on each image")
    parser.add_argument(
        "--batch", type=_count, default=1, metavar="N", help="images of one size at once; 1"
    )
    parser.add_argument(
        "--class",
        action="append",
        default=[],
        dest="classes",
        metavar="NAME",
        help="that every image shows; a CAM network tells by itself without",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_number,
        dest="numbers",
        metavar="KEY=VALUE",
        help="another number of the evaluation, as in scales=[0.5,1.0] or flip=true",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 1 on")
    return int(text)


def _number(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if key and equals:
            return key, params.value(value, "--set")
    except yaml.YAMLError:
        pass
    raise argparse.ArgumentTypeError(f"found {text!r}, expected KEY=VALUE")
