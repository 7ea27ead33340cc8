"""Draw the pictures of the README anew: `python docs/make.py`, after `snakemake all`, in the root.

pipeline.svg comes from dvc.yaml; toy.jpg shows the toy world's problem in the maps of the run.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from fbr import params, pipeline
from fbr.datasets import toy
from fbr.datasets.prepared import Prepared
from fbr.files import maps, pictures
from fbr.show import overlays, plots
from fbr.workspace import Workspace

AXES = {"data": "toy", "seed": "s0", "cam": "plain", "mask": "crf", "seg": "deeplabv2"}
SHOWN = (105, 93, 282, 376, 215)  # where the maps bleed most: chosen to show the fault
WIDTH = 1000


def main() -> None:
    blocks = params.read()
    stages = pipeline.asked(pipeline.load(), blocks)
    drawing = plots.graph([(s.name, s.desc) for s in stages], pipeline.downward(stages, blocks))
    Path("docs/pipeline.svg").write_text(drawing + "\n")
    rows = [row(index) for index in SHOWN]
    Path("docs/toy.jpg").write_bytes(overlays.to_jpeg_bytes(np.concatenate(rows), 88))


def row(index: int) -> np.ndarray:
    """One training image: its companion grounds, its maps, its pseudo masks and the truth."""
    place = Workspace()
    source = params.load().data["toy"].prepare
    world = toy.World(**source.world.model_dump())
    scene = toy.draw(world, source.seed, index)
    data = Prepared(place.path("prepare", "index", AXES).parent)
    entry = data.entries[index]
    image = data.image(entry)
    cams = maps.read(place.path("cam_infer", "cams", AXES) / f"{entry.id}.npz")
    masks = {
        name: pictures.read_mask(
            place.path("irn_infer", "masks", AXES | {"mask": name}) / f"{entry.id}.png"
        )
        for name in ("crf", "irn")
    }
    tiles = [
        (", ".join(data.classes[c] for c in entry.classes), image),
        ("companions", overlays.mask_overlay(image, scene.companions)),
        ("plain CAM", overlays.heat(image, cams.full().max(0))),
        *((name, overlays.mask_overlay(image, mask)) for name, mask in masks.items()),
        ("truth", overlays.mask_overlay(image, data.mask(entry))),
    ]
    square = [(name, np.asarray(Image.fromarray(t).resize((160, 160)))) for name, t in tiles]
    return overlays.panel(square, height=160)


if __name__ == "__main__":
    main()
