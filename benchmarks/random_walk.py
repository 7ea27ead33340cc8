"""Time the random walk against the dense form: `python -m benchmarks.random_walk`.

Seconds are the process's own: torch's threads count, waiting does not.
"""

from time import process_time

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

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
    """Print seconds, their ratio and the largest difference; then seconds an image by size."""
    cam, edge = scene()
    results, seconds = [], []
    for walk in (dense_walk, random_walk):
        start = process_time()
        results.append(walk(cam, edge))
        seconds.append(process_time() - start)
    dense, quick = seconds
    error = (results[0] - results[1]).abs().max() / results[0].max()
    print(f"random walk, {MAPS} maps of {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads")
    print(f"dense {dense:.2f} s  diagonals {quick:.3f} s  ratio {dense / quick:.0f}")
    print(f"largest difference {error:.1e} of the highest score")
    for maps, height, width, images in SIZES:
        cam, edge = (field.expand(images, *field.shape) for field in scene(maps, height, width))
        start = process_time()
        random_walk(cam, edge, BETA, EXP_TIMES, RADIUS)
        took = (process_time() - start) / images
        print(f"{maps} maps of {height}x{width}, images at a time: {images}: {took:.4f} s an image")


if __name__ == "__main__":
    main()
