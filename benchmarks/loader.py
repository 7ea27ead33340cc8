"""Images a second of the data loader alone, against what the network takes in the same time.

Both with the same number of threads and one after the other; in a training they share the cores,
so that of every second the loader takes 1 / (1 + ratio). The first pass decodes, later ones crop.

    python -m benchmarks.loader [images]
"""

import sys
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from scipy.ndimage import zoom

from fbr.cam.plain import Plain
from fbr.datasets import toy
from fbr.datasets.loader import Decoded, Loader, Order
from fbr.datasets.transforms import BILINEAR, NEAREST, RandomGeometry
from fbr.files import pictures
from fbr.nets import backbones
from fbr.nets.inputs import normalise
from fbr.nets.precision import autocast

PADDING = np.array([124, 116, 104], np.uint8)
BATCH = 32
PASSES = 3
STEPS = 4


def toy_image(index):
    scene = toy.draw(toy.World(), 0, index)
    return scene.image, scene.mask


def voc_image(index):
    """A photograph as large as most of VOC, as smooth as photographs are."""
    coarse = np.random.default_rng(index).random((26, 34, 3), np.float32)
    image = (255 * zoom(coarse, (375 / 26, 500 / 34, 1), order=1)).astype(np.uint8)
    return image, image[..., 0] // 13


CASES = {
    "toy, crop 96": (toy_image, RandomGeometry(96, (0.8, 1.25), None, True)),
    "500×375, crop 321": (voc_image, RandomGeometry(321, (0.5, 2.0), None, True)),
}


def write(folder, make, count):
    for index in range(count):
        image, mask = make(index)
        pictures.write_jpeg(folder / f"{index}.jpg", image)
        pictures.write_mask(folder / f"{index}.png", mask)


def loaded(folder, count, geometry, threads):
    """Images a second of the first pass and of the later ones."""

    def read(index):
        image = pictures.read_image(folder / f"{index}.jpg")
        return {"image": image, "mask": pictures.read_mask(folder / f"{index}.png")}

    def sample(index, rng):
        arrays = decoded[index]
        cut = geometry.draw(rng, *arrays["image"].shape[:2])
        image = cut.apply(arrays["image"], BILINEAR, PADDING)
        return {"image": image, "mask": cut.apply(arrays["mask"], NEAREST, 255)}

    decoded = Decoded(read)
    steps = count // BATCH
    loader = Loader(sample, Order(count, 0), lambda s: range(s * BATCH, (s + 1) * BATCH), threads)
    batches = loader.batches(0, PASSES * steps)
    rates = []
    for passes in (1, PASSES - 1):
        start = perf_counter()
        for _ in islice(batches, passes * steps):
            pass
        rates.append(passes * steps * BATCH / (perf_counter() - start))
    return rates


def taken(side, threads):
    """Images a second that a step of the small network takes: forward, backward, optimiser."""
    torch.set_num_threads(threads)
    network = Plain(backbones.build("small", 8), len(toy.CLASSES), Plain.Options())
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters())
    batch = {
        "image": normalise(torch.zeros(BATCH, side, side, 3, dtype=torch.uint8)),
        "label": torch.ones(BATCH, len(toy.CLASSES)),
    }
    for step in range(1 + STEPS):
        if step == 1:
            start = perf_counter()
        with autocast("cpu", True):
            loss = network(batch)["classification"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return STEPS * BATCH / (perf_counter() - start)


def main(images=64):
    """Print a line a case and number of threads."""
    print(f"{images} images, batches of {BATCH}; images/s")
    print(f"{'':<20}threads  first pass  later passes  small network at 96  ratio")
    before = torch.get_num_threads()
    needs = {threads: taken(96, threads) for threads in (1, 2)}
    torch.set_num_threads(before)
    for name, (make, geometry) in CASES.items():
        with TemporaryDirectory() as folder:
            write(Path(folder), make, images)
            for threads, need in needs.items():
                first, later = loaded(Path(folder), images, geometry, threads)
                numbers = f"{first:>10.0f}{later:>14.0f}{need:>21.0f}{later / need:>7.1f}"
                print(f"{name:<20}{threads:>7}  {numbers}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
