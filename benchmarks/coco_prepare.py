"""What `prepare` costs for COCO: processor time an image, and memory, on annotations of its size.

Images are 640×480 and show 7.4 objects of 27 corners each on average, as COCO's do; two processes
link and paint them. The photographs are links to a few files, for they are linked in any case.

    python -m benchmarks.coco_prepare [images | --full]
"""

import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from fbr.datasets import coco
from fbr.datasets.prepared import Prepared, write_index
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.params import CocoSource

SIZE = (480, 640)
OBJECTS = 7.4  # of an image: 896,782 in 123,287 would be 7.3
CORNERS = 27
FULL = {"train2014": 82783, "val2014": 40504}
PROCESSES = 2
SHAPES = 5000
LINKS = 5000  # to one file; no file system allows as many as there are images


def annotations(file, split, count, rng):
    """Write a file in COCO's format, object by object, as large as one that is downloaded."""
    height, width = SIZE
    images = (
        f'{{"license": 1, "file_name": "COCO_{split}_{i:012d}.jpg", "height": {height}, '
        f'"width": {width}, "id": {i}}}'
        for i in range(count)
    )
    kinds = [thing(rng) for _ in range(SHAPES)]
    with open(file, "w") as text:
        text.write('{"info": {}, "images": [' + ", ".join(images) + '], "annotations": [')
        number = 0
        for image in range(count):
            for _ in range(rng.poisson(OBJECTS)):
                number += 1
                comma = ", " if number > 1 else ""
                shape = kinds[rng.integers(SHAPES)]
                text.write(f'{comma}{{"id": {number}, "image_id": {image}, {shape}}}')
        named = (f'{{"id": {k}, "name": "kind{k}"}}' for k in range(1, 81))
        text.write('], "categories": [' + ", ".join(named) + "]}")


def thing(rng):
    """The rest of an object: a star-shaped polygon; a few are large, many are small."""
    height, width = SIZE
    radius = rng.uniform(0.1, 1, CORNERS) * np.exp(rng.normal(3.6, 0.9))
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    x = np.clip(rng.uniform(0, width) + radius * np.cos(angle), 0, width - 1)
    y = np.clip(rng.uniform(0, height) + radius * np.sin(angle), 0, height - 1)
    corners = ", ".join(f"{v:.2f}" for v in np.stack([x, y], 1).ravel().tolist())
    area = float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
    return (
        f'"segmentation": [[{corners}]], "area": {area:.4f}, "iscrowd": 0, '
        f'"bbox": [{x.min():.2f}, {y.min():.2f}, {np.ptp(x):.2f}, {np.ptp(y):.2f}], '
        f'"category_id": {rng.integers(1, 81)}'
    )


def photographs(folder, split, count, rng):
    folder.mkdir(parents=True)
    for index in range(count):
        if index % LINKS == 0:
            master = folder.parent / f"{split}_{index}.jpg"
            pictures.write_jpeg(master, rng.integers(0, 9, (*SIZE, 3), np.uint8))
        (folder / f"COCO_{split}_{index:012d}.jpg").hardlink_to(master)


def spent():
    """Seconds of the processor, of this process and of those that have ended below it."""
    usage = [resource.getrusage(u) for u in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def main(images=500):
    """Print processor time and memory; `images` of train and val together."""
    counts = FULL if images == "--full" else {"train2014": int(images), "val2014": 1}
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "coco" / "annotations").mkdir(parents=True)
        megabytes = 0
        for split, count in counts.items():
            file = root / "coco" / "annotations" / f"instances_{split}.json"
            annotations(file, split, count, rng)
            photographs(root / "coco" / split, split, count, rng)
            megabytes += file.stat().st_size / 1e6
        names = ("images", "masks", "instances", "saliency", "companions")
        folders = {name: PartialFolder(root / "data" / name, "") for name in names}
        source = CocoSource(source="coco", root="coco", labels="json")
        began, before = perf_counter(), spent()
        built = coco.build(source, root, folders, PROCESSES)
        for folder in folders.values():
            folder.finish()
        write_index(root / "data", built.entries, built.names)
        Prepared(root / "data")
        seconds, took = spent() - before, perf_counter() - began
    total = sum(counts.values())
    own, child = (
        resource.getrusage(u).ru_maxrss / 1024
        for u in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"{total} images, {built.found['objects']} objects, {megabytes:.0f} MB of annotations")
    print(f"processor time  {seconds:8.1f} s, {1000 * seconds / total:.2f} ms an image")
    print(f"on two cores    {sum(FULL.values()) * seconds / total / 120:8.1f} min for all of COCO")
    print(f"on the clock    {took:8.1f} s, with whatever else ran")
    print(f"memory          {own:8.0f} MB, and at most {child:.0f} MB in each of two processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
