"""Bytes an image of all that has run in a workspace, and how many photographs that is.

The mean over whatever seeds and variants are there. A file that is not one of an image's, such as a
network, is shared out among all images; what is under a thousandth of a photograph is left out.

    python -m benchmarks.artifacts [folder]
"""

import sys
from collections import defaultdict
from statistics import fmean

from fbr.datasets.prepared import Prepared
from fbr.files.tables import read_json
from fbr.workspace import AXES, PATHS, Workspace


def each(path, images):
    """Bytes an image of a folder of files named after images, or of a file about so many."""
    if path.is_dir():
        sizes = [(file.stem, file.stat().st_size) for file in path.iterdir() if file.is_file()]
        return sum(size for _, size in sizes) / max(len({id for id, _ in sizes}), 1)
    return path.stat().st_size / images


def written(workspace):
    """Bytes an image, of each dataset, stage and output."""
    found = defaultdict(list)
    for file in workspace.root.rglob("run.json"):
        record = read_json(file)
        axes = {axis: record[axis] for axis in AXES if axis in record}
        folder = workspace.path("prepare", "index", axes).parent
        if record["stage"] == "report" or not folder.is_dir():
            continue
        images = len(Prepared(folder).entries)
        for name, path in workspace.outputs(record["stage"], axes).items():
            if path.exists():
                found[axes["data"], record["stage"], name].append(each(path, images))
    return {key: fmean(sizes) for key, sizes in found.items()}


def main(folder="."):
    """Print a line an output, in the pipeline's order."""
    workspace, stages = Workspace(folder), list(PATHS)
    found = sorted(written(workspace).items(), key=lambda item: stages.index(item[0][1]))
    if not found:
        print("nothing has run here: python -m fbr prepare toy, for one, leaves something to count")
    for data in sorted({data for (data, _, _), _ in found}):
        photograph = each(workspace.path("prepare", "images", {"data": data}), 1)
        print(f"{data:<34}{'bytes an image':>16}{'photographs':>14}")
        for (of, stage, name), size in found:
            if of == data and size >= photograph / 1000:
                print(f"{stage:<18}{name:<16}{size:>16,.0f}{size / photograph:>14.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
