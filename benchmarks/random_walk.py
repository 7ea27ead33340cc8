"""Time the random walk against the dense form: `python -m benchmarks.random_walk`.

Seconds are the process's own: torch's threads count, waiting does not.
"""

from pathlib import Path
from time import process_time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks import resident
from fbr.masks.affinity import edge_to_affinity, path_index
from fbr.masks.walk import random_walk

HEIGHT, WIDTH, MAPS = 47, 63, 2
BETA, EXP_TIMES, RADIUS = 10, 8, 5
# Maps, height, width, images at a time: a photograph's at stride 4, small ones alone and together.
SIZES = ((3, 94, 125, 1), (3, 94, 125, 8), (2, 16, 16, 1), (2, 16, 16, 32))


def scene(maps: int = MAPS, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Return smooth scores and boundaries in 0..1."""
    rng = np.random.default_rng(0)
    noise = np.stack([gaussian_filter(rng.random((height, width)), 2) for _ in range(maps + 1)])
    noise -= noise.min(axis=(1, 2), keepdims=True)
    noise /= noise.max(axis=(1, 2), keepdims=True)
    noise = torch.from_numpy(noise).float()
    return noise[1:], noise[0] ** 3


def dense_walk(cam: Tensor, edge: Tensor) -> Tensor:
    """Square the whole transition matrix, as the published code does."""
    affinity = edge_to_affinity(edge[None, None], RADIUS)[0].flatten(1) ** BETA
    matrix = torch.eye(edge.numel())
    for (dy, dx), values in zip(path_index(RADIUS).displacements, affinity, strict=True):
        first = values.nonzero().squeeze(1)
        second = first + dy * edge.shape[1] + dx
        matrix[first, second] = matrix[second, first] = values[first]
    matrix /= matrix.sum(dim=0)
    for _ in range(EXP_TIMES):
        matrix = matrix @ matrix
    return ((cam * (1 - edge)).flatten(1) @ matrix).view(cam.shape)


def main() -> None:
    """Print seconds an image by size, then beside the dense form their ratio and difference."""
    random_walk(*scene(1, 16, 16))  # libraries come into memory
    print(f"random walk, {torch.get_num_threads()} threads")
    for maps, height, width, images in SIZES:
        cam, edge = (field.expand(images, *field.shape) for field in scene(maps, height, width))
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before, start = resident("VmRSS"), process_time()
        random_walk(cam, edge, BETA, EXP_TIMES, RADIUS)
        took = (process_time() - start) / images
        more = resident("VmHWM") - before
        at_a_time = f"images at a time: {images}"
        print(f"{maps} maps of {height}x{width}, {at_a_time}: {took:.4f} s an image, {more:.0f} MB")
    cam, edge = scene()
    results, seconds = [], []
    for walk in (dense_walk, random_walk):
        start = process_time()
        results.append(walk(cam, edge))
        seconds.append(process_time() - start)
    dense, quick = seconds
    error = (results[0] - results[1]).abs().max() / results[0].max()
    print(f"{MAPS} maps of {HEIGHT}x{WIDTH}: dense {dense:.2f} s, ratio {dense / quick:.0f}")
    print(f"largest difference {error:.1e} of the highest score")
    _, height, width, _ = SIZES[0]
    times = (height * width / (HEIGHT * WIDTH)) ** 3  # products of square matrices
    print(f"dense at {height}x{width}: {dense * times:.0f} s by that, not run")


if __name__ == "__main__":
    main()
