"""The engines of the dense CRF on made-up images of VOC size: `python -m benchmarks.dense_crf`.

Seconds are the process's own, on one core. An image that comes again, as it does for a mask and the
two passes of its seeds, finds its kernel ready in `numba`; `torch` takes the three passes at once,
on the CPU here whatever else there is.
"""

import sys
from dataclasses import replace
from time import process_time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from fbr.masks import crf
from fbr.masks.crf import Crf, dense_crf, unary_from_labels
from fbr.masks.tensor_crf import mean_field

SIZE = (375, 500)
SETTINGS = {
    "IRN, AMN": Crf(),
    "PPC": Crf(iterations=5, bilateral_sxy=80, bilateral_srgb=13),
    "DeepLab": Crf(gaussian_sxy=1, bilateral_sxy=67, bilateral_srgb=3, bilateral_compat=4),
}


def example(seed, classes=3):
    """Blobs, finer blobs and grain, as in a photograph, and labels that ignore them."""
    random = np.random.default_rng(seed)
    image = np.full((*SIZE, 3), 120.0)
    for width, contrast in ((40, 50), (6, 15), (0, 3)):
        layer = gaussian_filter(random.normal(size=image.shape), (width, width, 0))
        image += contrast * layer / layer.std()
    scores = gaussian_filter(random.normal(size=(classes, *SIZE)), (0, 15, 15))
    labels = scores.argmax(axis=0)
    return image.clip(0, 255).astype(np.uint8), unary_from_labels(labels, classes)


def seconds(image, unary, settings):
    start = process_time()
    result = dense_crf(image, unary, settings)
    return process_time() - start, result


def tensor_seconds(image, unary, settings, passes):
    """Seconds of a pass among so many, and the first one's result."""
    unaries = torch.from_numpy(np.stack([unary] * passes))
    start = process_time()
    (found,) = mean_field([torch.from_numpy(image)], [unaries], settings)
    return (process_time() - start) / passes, found[0].numpy()


def alike(found, theirs):
    """Share of equal labels, and mean difference."""
    return (found.argmax(axis=0) == theirs.argmax(axis=0)).mean(), np.abs(found - theirs).mean()


def main(count=3):
    torch.set_num_threads(1)
    images = [example(seed) for seed in range(count)]
    for engine in crf.ENGINES:
        dense_crf(*images[0], Crf(engine=engine))
    print(f"{count} images of {SIZE[1]}×{SIZE[0]}, 3 labels; seconds an image on one core")
    print("settings  pydensecrf  numba  ratio  again  ratio  same labels  mean difference")
    print("                      torch         of 3         as numba's")
    for name, ours in SETTINGS.items():
        took, near = [], []
        for image in images:
            slow, theirs = seconds(*image, replace(ours, engine="pydensecrf"))
            crf._kernel.cache_clear()
            fast, found = seconds(*image, ours)
            again, _ = seconds(*image, ours)
            tensors, same = tensor_seconds(*image, ours, passes=1)
            third, _ = tensor_seconds(*image, ours, passes=3)
            took.append((slow, fast, again, tensors, third))
            near.append((*alike(found, theirs), *alike(same, found)))
        slow, fast, again, tensors, third = np.mean(took, axis=0)
        labels, apart, labels_torch, apart_torch = np.mean(near, axis=0)
        print(
            f"{name:10}{slow:10.3f}{fast:7.3f}{slow / fast:7.1f}{again:7.3f}{slow / again:7.1f}"
            f"{labels:13.3%}{apart:17.1e}\n"
            f"{'':20}{tensors:7.3f}{slow / tensors:7.1f}{third:7.3f}{slow / third:7.1f}"
            f"{labels_torch:13.3%}{apart_torch:17.1e}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
