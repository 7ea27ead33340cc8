"""Draw the pictures of a study's page anew: `python docs/studies/pictures.py fbr`, in the root.

One a dataset, `<study>/<data>.png`: the training images in which the first of three rows spills
most, their maps under each row, the NROIs of the last one, and where else its background looks like
the place that confuses the first. Per cent is the share of a map that lies on companion ground, or
on any background where the data knows no companions.
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
from torch import Tensor, nn

from fbr.cam.nrois import assign, nrois
from fbr.datasets.prepared import VOID, Entry, Prepared
from fbr.errors import Refusal, chosen
from fbr.files import maps
from fbr.files.atomic import write_bytes
from fbr.nets.inputs import normalise
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
WIDTH = 132  # of a column, in pixels
CROP = 0.4  # side of what is shown of a neighbour, in sides of its image
GAP = 2
BYTES = 150_000  # of a picture, at most
GREY, WHITE, BLACK = 90, (255, 255, 255), (0, 0, 0)
NROI_COLOURS = np.array([ImageColor.getrgb(DARK[f"c{n}"]) for n in range(SERIES_COLOURS)])

Box = tuple[int, int, int, int]  # left, top, right, bottom, as Pillow has it
Runs = dict[str, plan.Axes]  # by the row's name, the order is that of the columns


def main() -> None:
    asked = _parser().parse_args()
    torch.set_num_threads(1)
    home = Workspace()
    study = plan.load(Path("docs/studies", f"{asked.study}.yaml"), home.params)
    place = Place(home, study)
    known = dict.fromkeys(table.data for table in study.tables)
    ready = [d for d in known if place.workspace.path("prepare", "index", {"data": d}).is_file()]
    for data in ready or known:
        rows = (asked.plain, asked.intent, asked.plus)
        runs = {name: finished(study, place, data, name) for name in rows}
        picture = drawn(place.workspace, runs)
        file = Path("docs/studies", study.name, f"{data}.png")
        write_bytes(file, small_png(picture, file))
        print(f"{file}: {picture.shape[1]}x{picture.shape[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw the pictures of a study's page.")
    parser.add_argument("study", nargs="?", default="fbr", help="docs/studies/<study>.yaml")
    parser.add_argument("--plain", default="plain", metavar="ROW", help="the row to improve on")
    parser.add_argument("--intent", default="all", metavar="ROW", help="FBR as published")
    parser.add_argument("--plus", default="plus", metavar="ROW", help="FBR whose NROIs are shown")
    return parser


def finished(study: plan.Study, place: Place, data: str, name: str) -> plan.Axes:
    """A row's run under its first seed, in the first table of this data that has the row."""
    tables = [table for table in study.tables if table.data == data]
    rows = {row.name: (table, row) for table in reversed(tables) for row in table.rows}
    table, row = chosen(rows, name, f"rows of {data} in docs/studies/{study.name}.yaml")
    axes = table.runs(row)[0]
    if place.score(axes) is None:
        raise Refusal(
            f"{data}: row '{name}' is not finished under seed {axes['seed']}; "
            f"run: fbr study docs/studies/{study.name}.yaml --tables {table.name}"
        )
    return axes


def drawn(workspace: Workspace, runs: Runs) -> np.ndarray:
    """The picture of one dataset; the first run chooses the images, the last one has the NROIs."""
    first, *_, last = runs.values()
    data = Prepared(workspace.path("prepare", "index", first).parent)
    cams = {name: workspace.path("cam_infer", "cams", axes) for name, axes in runs.items()}
    eye = Eye(workspace.path("cam_train", "model", last))
    split = data.split(SPLIT)
    bank = [(entry, eye.look(data, entry)) for entry in split[:: -(-len(split) // SOURCES)]]
    return np.concatenate(
        [line(data, entry, cams, eye, bank) for entry in worst(data, next(iter(cams.values())))]
    )


def worst(data: Prepared, cams: Path) -> list[Entry]:
    """The images in which the maps spill most, one for each set of classes."""
    shown = [entry for entry in data.split(SPLIT) if entry.classes]
    ranked = sorted(shown, key=lambda e: -spilt(read(cams, e).full(), *truth(data, e)))
    # Of images of the same classes, the one that comes last here is the worst.
    return sorted({e.classes: e for e in reversed(ranked)}.values(), key=ranked.index)[:IMAGES]


def read(cams: Path, entry: Entry) -> maps.Maps:
    return maps.read(cams / f"{entry.id}.npz")


def truth(data: Prepared, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and where in its background a map is wrong: all of it, or companion ground."""
    mask = data.mask(entry)
    wrong = mask == 0
    if data.has("companions", entry):
        wrong &= data.companions(entry) > 0
    return mask, wrong


def spilt(cam: np.ndarray, mask: np.ndarray, wrong: np.ndarray) -> float:
    """Share of the strongest maps (k, H, W) that lies where it is wrong; void does not count."""
    strongest = cam.max(0)
    return float(strongest[wrong].sum() / strongest[mask != VOID].sum())


class Seen(NamedTuple):
    """One image on the grid: u (h, w, D) of Z_bg, label of the seeds and nearest NROI (h, w)."""

    u: Tensor
    label: Tensor
    own: Tensor
    regions: Tensor  # (n, D), of this image


Bank = Sequence[tuple[Entry, Seen]]


class Eye:
    """A trained network that carries FBR, and what it makes of the background of an image."""

    def __init__(self, model: Path) -> None:
        network, described = networks.load(model, torch.device("cpu"))
        if network.background is None:
            raise Refusal(f"{model}: trained without FBR; name a row with an fbr block by --plus")
        self.network: nn.Module = network
        self.step = {"step": described["steps"], "seed": 0}

    @torch.inference_mode()
    def look(self, data: Prepared, entry: Entry) -> Seen:
        """Seeds and NROIs as in the last step of the training, for the image as a whole."""
        background = self.network.background
        image = normalise(torch.from_numpy(data.image(entry))[None])
        batch = {"image": image, "label": torch.from_numpy(data.labels([entry])), **self.step}
        seen = self.network.look(batch)
        z, u = background.project(seen.features)
        label = background._read(seen.scores, z, batch).label
        n = background.numbers
        draws = torch.rand(1, n.nrois, generator=torch.Generator().manual_seed(0))
        regions, counted = nrois(u, label == 0, draws, n.start, n.iterations)
        regions = regions[:, : max(1, int(counted.sum()))]
        grid = seen.features.shape[2:]
        own = assign(u, regions).view(grid)
        return Seen(u.view(*grid, -1), label.view(grid), own, regions[0])


def line(data: Prepared, entry: Entry, cams: dict[str, Path], eye: Eye, bank: Bank) -> np.ndarray:
    """All columns of one image."""
    image, (mask, wrong), seen = data.image(entry), truth(data, entry), eye.look(data, entry)
    found = {name: read(folder, entry) for name, folder in cams.items()}
    place = confused(next(iter(found.values())), wrong, seen.label)
    height = round(WIDTH * entry.height / entry.width)
    size = (WIDTH, height)
    box = window(entry, place, seen.label, size)
    others = [(e, s) for e, s in bank if e.id != entry.id]
    tiles = [
        (", ".join(data.classes[c] for c in entry.classes), framed(image, box)),
        ("truth", overlays.mask_overlay(image, mask)),
        *(
            (f"{name}, {spilt(maps_.full(), mask, wrong):.0%}", cam_tile(image, maps_.cam))
            for name, maps_ in found.items()
        ),
        ("NROIs", segments(image, seen)),
        ("like the box", neighbours(data, seen.u[place], others, size)),
    ]
    same = [(name, np.asarray(Image.fromarray(t).resize(size))) for name, t in tiles]
    return overlays.panel(same, height)


def confused(found: maps.Maps, wrong: np.ndarray, grid: Tensor) -> tuple[int, int]:
    """The position of the grid where a map is strongest and wrong."""
    hot = torch.from_numpy(found.full().max(0) * wrong)[None]
    row, column = divmod(int(F.adaptive_avg_pool2d(hot, grid.shape).argmax()), grid.shape[1])
    return row, column


def segments(image: np.ndarray, seen: Seen) -> np.ndarray:
    """Each position of the background in its NROI's colour; what the seeds leave out is grey."""
    colours = NROI_COLOURS[seen.own.numpy() % SERIES_COLOURS]
    colours[seen.label.numpy() != 0] = GREY
    large = Image.fromarray(colours.astype(np.uint8)).resize(image.shape[1::-1], Image.NEAREST)
    grey = Image.fromarray(image).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, large, 0.65))


def neighbours(data: Prepared, query: Tensor, bank: Bank, size: tuple[int, int]) -> np.ndarray:
    """The four images with the NROIs most like a pixel, two by two, cut to where these are."""
    best = [F.cosine_similarity(query[None], seen.regions, dim=1).max(0) for _, seen in bank]
    order = torch.stack([likeness for likeness, _ in best]).argsort(descending=True, stable=True)
    canvas = Image.new("RGB", size)
    part = ((size[0] - GAP) // 2, (size[1] - GAP) // 2)
    for number, index in enumerate(order[:4].tolist()):
        entry, seen = bank[index]
        alike = F.cosine_similarity(seen.regions[best[index].indices], seen.u, dim=2)
        at = int(alike.masked_fill(seen.label != 0, -torch.inf).argmax())
        place = divmod(at, seen.label.shape[1])
        cut = Image.fromarray(data.image(entry)).crop(window(entry, place, seen.label, part))
        row, column = divmod(number, 2)
        canvas.paste(cut.resize(part), (column * (part[0] + GAP), row * (part[1] + GAP)))
    return np.asarray(canvas)


def window(entry: Entry, place: tuple[int, int], grid: Tensor, shape: tuple[int, int]) -> Box:
    """A box of the proportions of `shape` around a position of the grid, within the image."""
    sides = (entry.width, entry.height)
    scale = CROP * min(side / part for side, part in zip(sides, shape, strict=True))
    wide, high = (round(part * scale) for part in shape)
    centre = [
        (at + 0.5) * side / count
        for at, side, count in zip(place[::-1], sides, tuple(grid.shape)[::-1], strict=True)
    ]
    left = min(max(0, round(centre[0] - wide / 2)), entry.width - wide)
    top = min(max(0, round(centre[1] - high / 2)), entry.height - high)
    return left, top, left + wide, top + high


def framed(image: np.ndarray, box: Box) -> np.ndarray:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).rectangle(box, outline=WHITE)
    return np.asarray(picture)


def small_png(picture: np.ndarray, file: Path) -> bytes:
    """The picture in as many colours as fit the bytes allowed."""
    for colours in (256, 192, 128, 96, 64):
        encoded = BytesIO()
        Image.fromarray(picture).quantize(colours, kmeans=1).save(encoded, "PNG", optimize=True)
        if encoded.tell() < BYTES:
            return encoded.getvalue()
    raise Refusal(f"{file}: over {BYTES} bytes in 64 colours; make WIDTH or IMAGES less")


if __name__ == "__main__":
    try:
        main()
    except Refusal as refusal:
        sys.exit(f"pictures.py: {refusal}")
