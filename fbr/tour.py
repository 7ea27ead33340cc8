"""`fbr show`: one image through every stage behind a result, as a page or a picture."""

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal
from fbr.files.atomic import write_bytes, write_text
from fbr.show import overlays
from fbr.show.page import KeyValues, Picture, Report, Section, page
from fbr.show.palette import name_colours
from fbr.stages import journey
from fbr.workspace import Workspace

HEIGHT = 256  # of each picture, pixels


def main(argv: list[str], workspace: Workspace) -> int:
    """Show one image as every stage behind a result saw it: maps, seeds, masks, prediction, truth.

    The page opens where there is a display; its path is printed anyway.
    """
    parser = argparse.ArgumentParser(prog="fbr show", description=main.__doc__)
    parser.add_argument("run", help="a result, as results/toy/s0/plain/irn, or a tracking run's id")
    parser.add_argument("--image", metavar="ID", help="of the index; the first that has maps")
    parser.add_argument("--out", metavar="FILE", help=".html, .png or .jpg; a page under reports/")
    asked = parser.parse_args(argv)
    stage, axes = journey.instance(asked.run, workspace)
    data = Prepared(workspace.path("prepare", "index", axes).parent)
    behind = journey.behind((stage, axes), workspace)
    entry = journey.chosen(data, behind, workspace, asked.image)
    name = "-".join([*list(axes.values())[1:], entry.id])
    default = workspace.beside("report", {"data": axes["data"]}) / "show" / f"{name}.html"
    target = Path(asked.out) if asked.out else default
    if target.suffix not in (".html", ".png", ".jpg"):
        raise Refusal(f"--out: found '{target}', expected a name that ends in .html, .png or .jpg")
    steps = list(journey.steps(entry, data, behind, workspace))
    if target.suffix == ".html":
        write_text(target, page(_report(" / ".join(axes.values()), entry, data, steps)))
    else:
        row = overlays.panel([(step.title, step.tile) for step in steps], HEIGHT)
        encode = overlays.to_png_bytes if target.suffix == ".png" else overlays.to_jpeg_bytes
        write_bytes(target, encode(row))
    print(f"{target}: {entry.id}: {', '.join(step.title for step in steps)}")
    if display():
        webbrowser.open(target.resolve().as_uri())
    return 0


def display() -> bool:
    """Whether there is a screen to open a page on."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _report(result: str, entry: Entry, data: Prepared, steps: list[journey.Step]) -> Report:
    shown = [data.classes[c] for c in entry.classes]
    colours = name_colours(data.classes)
    figures = [
        Picture(
            overlays.to_jpeg_bytes(overlays.panel([(step.title, step.tile)], HEIGHT)),
            step.title,
            tuple((name, colours[name]) for name in shown),
        )
        for step in steps
    ]
    files = KeyValues(tuple((step.title, str(step.source)) for step in steps))
    sections = (Section("Stages", "", tuple(figures)), Section("Files", "", (files,)))
    return Report(
        f"{entry.id} on its way", f"{result}: {', '.join(shown) or 'no object'}", sections
    )
