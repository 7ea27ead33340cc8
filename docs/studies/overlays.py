"""Draw images under every row of a table: `python docs/studies/overlays.py bases toy`, in the root.

`<study>-runs/<table>.png`: images evenly spaced in the split that is scored, their truth, and what
each row that is finished makes of them under the table's first seed, maps, masks or predictions.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from pictures import small_png
from PIL import Image, ImageDraw, ImageFont

from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal, chosen
from fbr.files import maps, pictures
from fbr.files.atomic import write_bytes
from fbr.show import overlays
from fbr.show.palette import DARK
from fbr.stages.overlays import cam_tile
from fbr.study import plan
from fbr.study.place import Place
from fbr.workspace import Workspace

IMAGES = 4
SIDE = 84  # of a tile at most, in pixels
LABEL, NAME, GAP = 250, 18, 4  # of a line's name, of a class's, between tiles
SHOWN = {
    "cam_eval": ("cam_infer", "cams"),
    "mask_eval": ("irn_infer", "masks"),
    "seg_eval": ("seg_eval", "pred"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw images under every row of a table.")
    parser.add_argument("study", help="as in docs/studies/<study>.yaml")
    parser.add_argument("table", help="one of its tables")
    asked = parser.parse_args()
    file = Path("docs/studies", f"{asked.study}.yaml")
    study = plan.load(file, Workspace().params)
    table = chosen({t.name: t for t in study.tables}, asked.table, f"tables of {file}")
    place = Place(Workspace(), study)
    runs = [(row.label, table.runs(row)[0]) for row in table.rows]
    finished = [(label, axes, place.score(axes)) for label, axes in runs]
    folders = [
        (label, place.workspace.path(*SHOWN[table.stage], axes), score)
        for label, axes, score in finished
        if score
    ]
    folders = [found for found in folders if found[1].is_dir()]
    if not folders:
        raise Refusal(
            f"{file}: no row of '{table.name}' is finished here under seed {table.seeds[0]}"
        )
    data = Prepared(place.workspace.path("prepare", "index", {"data": table.data}).parent)
    shown = [e for e in data.split(folders[0][2]["split"]) if e.classes]
    shown = shown[:: max(1, len(shown) // IMAGES)][:IMAGES]
    picture = sheet(data, shown, [(label, folder) for label, folder, _ in folders])
    out = Path("docs/studies", f"{study.name}-runs", f"{table.name}.png")
    write_bytes(out, small_png(picture))
    print(f"{out}: {picture.shape[1]}x{picture.shape[0]}, {out.stat().st_size} bytes")


def sheet(data: Prepared, shown: list[Entry], folders: list[tuple[str, Path]]) -> np.ndarray:
    """A column an image under its classes; a line each for images, truth, and the table's rows."""
    images = [data.image(entry) for entry in shown]
    pairs = [*zip(shown, images, strict=True)]
    lines = [
        ("image", images),
        ("truth", [overlays.mask_overlay(image, data.mask(entry)) for entry, image in pairs]),
        *(
            (label, [tile(image, folder, entry) for entry, image in pairs])
            for label, folder in folders
        ),
    ]
    heading = NAME * max(len(entry.classes) for entry in shown)
    size = (LABEL + len(shown) * (SIDE + GAP), heading + len(lines) * (SIDE + GAP))
    canvas = Image.new("RGB", size, DARK["paper"])
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, entry in enumerate(shown):
        for place, name in enumerate(data.classes[c] for c in entry.classes):
            where = (LABEL + column * (SIDE + GAP), NAME * (place + 0.5))
            draw.text(where, name, DARK["ink"], font, anchor="lm")
    for number, (label, tiles) in enumerate(lines):
        top = heading + number * (SIDE + GAP)
        draw.text((GAP, top + SIDE / 2), label, DARK["ink"], font, anchor="lm")
        for column, small in enumerate(tiles):
            picture = Image.fromarray(small)
            picture.thumbnail((SIDE, SIDE))
            down = (SIDE - picture.height) // 2
            canvas.paste(picture, (LABEL + column * (SIDE + GAP), top + down))
    return np.asarray(canvas)


def tile(image: np.ndarray, folder: Path, entry: Entry) -> np.ndarray:
    """An image's mask over it, or where there is none its maps."""
    mask = folder / f"{entry.id}.png"
    if mask.is_file():
        return overlays.mask_overlay(image, pictures.read_mask(mask))
    return cam_tile(image, maps.read(folder / f"{entry.id}.npz").full().max(0)[None])


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(f"overlays.py: {refusal}")
