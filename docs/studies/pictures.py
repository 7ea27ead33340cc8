"""Draw the pictures of a study's page anew: `python docs/studies/pictures.py fbr`, in the root.

One a dataset, `<study>/<data>.png`, of the training images where the maps of the first of three
rows spill most: the maps of each, with the share of them that spills; the NROIs that the last row's
network sees there; and, of other images, those NROIs that are most like the worst place (the box).
"""

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageDraw
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree
from torch import Tensor

from fbr.cam.nrois import assign, nrois
from fbr.datasets.prepared import VOID, Entry, Prepared
from fbr.errors import Refusal, chosen
from fbr.files import maps
from fbr.files.atomic import write_bytes
from fbr.nets.inputs import normalise
from fbr.positions import PIXELS, Positions
from fbr.show import overlays
from fbr.show.palette import DARK, SERIES_COLOURS
from fbr.stages import networks
from fbr.stages.overlays import cam_tile
from fbr.study import plan
from fbr.study.place import Place
from fbr.workspace import Workspace

SPLIT = "train"
IMAGES = 5
SOURCES = 200  # images whose NROIs stand for the bank, which keeps no pictures
WIDTH = 120  # of a column, in pixels
CROP = 0.4  # side of a neighbour's picture, in sides of its image
BYTES = 150_000  # of a picture, at most
SKIPPED = 37  # of so many pixels, one is asked for the palette
NROI_COLOURS = np.array(
    [ImageColor.getrgb(DARK[f"c{n}"]) for n in range(SERIES_COLOURS)], dtype=np.uint8
)
GREY = 90

Size = tuple[int, int]  # width, height
Point = tuple[float, float]  # across and down, in sides of the image


class Seen(NamedTuple):
    """What FBR makes of one image; its grid is (h, w)."""

    positions: Positions  # of the grid
    size: tuple[int, int]  # of the image, height and width
    u: Tensor  # (h·w, D), Z_bg
    label: Tensor  # (h, w), seeds: 0 is background
    own: Tensor  # (h, w), number of the nearest NROI
    regions: Tensor  # (n, D), the NROIs


Bank = Sequence[tuple[Entry, Seen]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of a study's page.")
    parser.add_argument("study", nargs="?", default="fbr", help="as in docs/studies/<study>.yaml")
    parser.add_argument("--data", help="one dataset; without, all that are prepared")
    parser.add_argument("--plain", default="plain", metavar="ROW", help="the row to improve on")
    parser.add_argument("--intent", default="all", metavar="ROW", help="FBR as published")
    parser.add_argument("--plus", default="plus", metavar="ROW", help="FBR, whose NROIs are shown")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    study = plan.load(Path("docs/studies", f"{asked.study}.yaml"), Workspace().params)
    place = Place(Workspace(), study)
    known = dict.fromkeys(table.data for table in study.tables)
    ready = [d for d in known if place.workspace.path("prepare", "index", {"data": d}).is_file()]
    for data in [asked.data] if asked.data else ready or known:
        rows = (asked.plain, asked.intent, asked.plus)
        picture = drawn(place.workspace, [finished(study, place, data, row) for row in rows], rows)
        file = Path("docs/studies", f"{study.name}-runs", f"{data}.png")
        write_bytes(file, small_png(picture))
        print(f"{file}: {picture.shape[1]}x{picture.shape[0]}, {file.stat().st_size} bytes")


def finished(study: plan.Study, place: Place, data: str, name: str) -> plan.Axes:
    """A row's run under its first seed, in the first table of this data that has the row."""
    tables = [table for table in study.tables if table.data == data]
    rows = {row.name: (table, row) for table in reversed(tables) for row in table.rows}
    table, row = chosen(rows, name, f"rows of {data} in docs/studies/{study.name}.yaml")
    axes = table.runs(row)[0]
    if place.score(axes) is None or place.remembered(axes):  # its maps are needed
        raise Refusal(
            f"{data}: row '{name}' is not finished under seed {axes['seed']}; "
            f"run: fbr study docs/studies/{study.name}.yaml --tables {table.name}"
        )
    return axes


def drawn(workspace: Workspace, runs: list[plan.Axes], rows: Sequence[str]) -> np.ndarray:
    """The picture of one dataset: a line for each image."""
    data = Prepared(workspace.path("prepare", "index", runs[0]).parent)
    cams = [workspace.path("cam_infer", "cams", axes) for axes in runs]
    model = workspace.path("cam_train", "model", runs[-1])
    split, shown = data.split(SPLIT), worst(data, cams[0])
    sources = split[:: -(-len(split) // SOURCES)]
    seen = looked(model, data, list(dict.fromkeys([*sources, *shown])))
    bank = [(source, seen[source]) for source in sources if (seen[source].label == 0).any()]
    lines = []
    for entry in shown:
        found = {row: maps.read(c / f"{entry.id}.npz") for row, c in zip(rows, cams, strict=True)}
        others = [(source, there) for source, there in bank if source != entry]
        lines.append(line(data, entry, found, seen[entry], others))
    return np.concatenate(lines)


def worst(data: Prepared, cams: Path) -> list[Entry]:
    """The images with the most activation where it is wrong, one for each set of classes."""
    amounts: dict[Entry, float] = {}
    for entry in (entry for entry in data.split(SPLIT) if entry.classes):
        strongest = maps.read(cams / f"{entry.id}.npz").full().max(0)
        amounts[entry] = float((strongest * truth(data, entry)[1]).mean())
    # Of equal classes the last one stays, which is the worst.
    each = {entry.classes: entry for entry in sorted(amounts, key=amounts.__getitem__)}
    return sorted(each.values(), key=amounts.__getitem__, reverse=True)[:IMAGES]


def truth(data: Prepared, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and where in its background maps are wrong: on companions if it is known of any."""
    mask = data.mask(entry)
    wrong = mask == 0
    if data.has("companions", entry):
        wrong &= data.companions(entry) > 0
    return mask, wrong


@torch.inference_mode()
def looked(model: Path, data: Prepared, entries: list[Entry]) -> dict[Entry, Seen]:
    """Whole images, with seeds and NROIs made as in the last step of the training."""
    network, described = networks.load(model, torch.device("cpu"))
    if network.background is None:
        raise Refusal(f"{model}: trained without FBR; name a row that carries it by --plus")
    n, found = network.background.numbers, {}
    for entry, label in zip(entries, torch.from_numpy(data.labels(entries)), strict=True):
        image = normalise(torch.from_numpy(data.image(entry))[None])
        batch = {"image": image, "label": label[None], "step": described["steps"], "seed": 0}
        look = network.look(batch)
        z, u = network.background.project(look.features)
        seeds = network.background.read(look.scores, z, batch).label
        draws = torch.rand(1, n.nrois, generator=torch.Generator().manual_seed(0))
        regions, counted = nrois(u, seeds == 0, draws, n.start, n.iterations)
        regions = regions[:, : max(1, int(counted.sum()))]
        grid = look.features.shape[2:]
        own, size = assign(u, regions).view(grid), (entry.height, entry.width)
        found[entry] = Seen(network.positions, size, u[0], seeds.view(grid), own, regions[0])
    return found


def line(
    data: Prepared, entry: Entry, found: dict[str, maps.Maps], seen: Seen, bank: Bank
) -> np.ndarray:
    """All columns of one image."""
    image, (mask, wrong) = data.image(entry), truth(data, entry)
    size = (WIDTH, round(WIDTH * entry.height / entry.width))
    strongest = {row: each.full().max(0) for row, each in found.items()}
    hot = torch.from_numpy(next(iter(strongest.values())) * wrong)[None, None]
    place = int(seen.positions.around(hot, seen.label.shape).argmax())
    tiles = [
        (", ".join(data.classes[c] for c in entry.classes), image),
        ("truth", overlays.mask_overlay(image, mask)),
        *(
            (f"{row}, {cam[wrong].sum() / cam[mask != VOID].sum():.0%}", cam_tile(image, cam[None]))
            for row, cam in strongest.items()
        ),
        ("NROIs", segments(image, seen)),
        ("NROIs like the box", neighbours(data, seen.u[place], bank, size)),
    ]
    pictures = [Image.fromarray(tile).resize(size, Image.Resampling.BILINEAR) for _, tile in tiles]
    left, top, right, bottom = window(size, where(place, seen), size)
    ImageDraw.Draw(pictures[0]).rectangle((left, top, right - 1, bottom - 1), outline="white")
    named = [(name, np.asarray(p)) for (name, _), p in zip(tiles, pictures, strict=True)]
    return overlays.panel(named, size[1])


def segments(image: np.ndarray, seen: Seen) -> np.ndarray:
    """Each position of the background in its NROI's colour; grey where the seeds have none."""
    label, own = (PIXELS.nearest(m, seen.size, seen.positions) for m in (seen.label, seen.own))
    colours = NROI_COLOURS[own % SERIES_COLOURS]
    colours[label != 0] = GREY
    grey = Image.fromarray(image).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, Image.fromarray(colours), 0.65))


def neighbours(data: Prepared, query: Tensor, bank: Bank, size: Size) -> np.ndarray:
    """The NROIs most like a pixel (D,), of four images: what is around the middle of each."""
    best = [F.cosine_similarity(query[None], seen.regions, dim=1).max(0) for _, seen in bank]
    order = torch.stack([alike for alike, _ in best]).argsort(descending=True, stable=True)
    canvas = Image.new("RGB", size)
    part = (size[0] // 2 - 1, size[1] // 2 - 1)
    corners = [(x, y) for y in (0, size[1] - part[1]) for x in (0, size[0] - part[0])]
    for corner, index in zip(corners, order.tolist(), strict=False):
        entry, seen = bank[index]
        alike = F.cosine_similarity(seen.regions[best[index].indices], seen.u, dim=1)
        middle = alike.masked_fill(seen.label.flatten() != 0, -torch.inf).argmax()
        at = where(int(middle), seen)
        picture = Image.fromarray(data.image(entry))
        canvas.paste(picture.resize(part, box=window(picture.size, at, part)), corner)
    return np.asarray(canvas)


def where(place: int, seen: Seen) -> Point:
    """The middle of the pixel at which a position of the grid lies."""
    stride, first = seen.positions
    (row, column), (height, width) = divmod(place, seen.label.shape[1]), seen.size
    return (first + column * stride + 0.5) / width, (first + row * stride + 0.5) / height


def window(size: Size, at: Point, shape: Size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a window around a point, with the proportions of `shape`."""
    scale = CROP * min(size[0] / shape[0], size[1] / shape[1])
    sides = [round(side * scale) for side in shape]
    left, top = (
        min(max(0, round(p * whole - side / 2)), whole - side)
        for p, whole, side in zip(at, size, sides, strict=True)
    )
    return left, top, left + sides[0], top + sides[1]


def small_png(picture: np.ndarray) -> bytes:
    """Encode in as many colours as the bytes allow; k-means finds them, better than Pillow does."""
    pixels = picture.reshape(-1, 3).astype(np.float32)
    for colours in range(256, 31, -32):
        means, _ = kmeans2(pixels[::SKIPPED], colours, minit="++", rng=0)
        palette = means.round().astype(np.uint8)
        index = cKDTree(palette).query(pixels)[1].astype(np.uint8)
        reduced = Image.fromarray(index.reshape(picture.shape[:2]))
        reduced.putpalette(palette.tobytes())
        encoded = BytesIO()
        reduced.save(encoded, "PNG", optimize=True)
        if encoded.tell() < BYTES:
            break
    return encoded.getvalue()


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(f"pictures.py: {refusal}")
