"""Draw images under every row of a table: `python docs/studies/overlays.py bases toy`, in the root.

`<study>-runs/<table>.png`: images evenly spaced in the split that is scored, their truth, and what
each row that is finished makes of them under the table's first seed, maps, masks or predictions.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from pictures import small_png
from PIL import Image

from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal, chosen
from fbr.files import maps, pictures
from fbr.files.atomic import write_bytes
from fbr.show import overlays
from fbr.stages.overlays import cam_tile
from fbr.study import plan
from fbr.study.place import Place
from fbr.workspace import Workspace

IMAGES = 4
WIDTH = 104  # of a column, in pixels
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
    tiles = [(label, folder) for label, folder, _ in folders]
    picture = np.concatenate([line(data, entry, tiles) for entry in shown])
    out = Path("docs/studies", f"{study.name}-runs", f"{table.name}.png")
    write_bytes(out, small_png(picture))
    print(f"{out}: {picture.shape[1]}x{picture.shape[0]}, {out.stat().st_size} bytes")


def line(data: Prepared, entry: Entry, folders: list[tuple[str, Path]]) -> np.ndarray:
    """One image, its truth, and each row's."""
    image = data.image(entry)
    named = [
        (", ".join(data.classes[c] for c in entry.classes), image),
        ("truth", overlays.mask_overlay(image, data.mask(entry))),
        # Shorter, so that titles fit.
        *(
            (label.replace(" + ", "+").replace(" on ", "/"), tile(image, folder, entry))
            for label, folder in folders
        ),
    ]
    size = (WIDTH, round(WIDTH * entry.height / entry.width))
    small = [(name, np.asarray(Image.fromarray(t).resize(size))) for name, t in named]
    return overlays.panel(small, size[1])


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
