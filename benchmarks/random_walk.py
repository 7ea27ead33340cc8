"""Time the random walk against the dense form: `python -m benchmarks.random_walk`."""

import time

import numpy as np
import torch
from scipy import sparse
from scipy.ndimage import gaussian_filter

from fbr.masks.affinity import edge_to_affinity
from fbr.masks.walk import diagonals, random_walk

HEIGHT, WIDTH, MAPS = 47, 63, 2
BETA, EXP_TIMES, RADIUS = 10, 8, 5


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Return smooth scores and boundaries in 0..1."""
    rng = np.random.default_rng(0)
    noise = np.stack([gaussian_filter(rng.random((HEIGHT, WIDTH)), 2) for _ in range(MAPS + 1)])
    noise -= noise.min(axis=(1, 2), keepdims=True)
    noise /= noise.max(axis=(1, 2), keepdims=True)
    return noise[1:].astype(np.float32), (noise[0] ** 3).astype(np.float32)


def dense_walk(cam: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Square the whole transition matrix, as the published code does."""
    affinity = edge_to_affinity(torch.from_numpy(edge)[None, None], RADIUS)[0].numpy()
    offsets, values = diagonals(affinity**BETA, RADIUS)
    below = sparse.dia_array((values, -offsets), shape=(edge.size,) * 2)
    below = torch.from_numpy(below.toarray()).float()
    matrix = below + below.T + torch.eye(edge.size)
    matrix /= matrix.sum(dim=0)
    for _ in range(EXP_TIMES):
        matrix = matrix @ matrix
    return (torch.from_numpy(cam * (1 - edge)).flatten(1) @ matrix).numpy().reshape(cam.shape)


def main() -> None:
    """Print seconds, their ratio and the largest difference."""
    cam, edge = scene()
    results, seconds = [], []
    for walk in (dense_walk, random_walk):
        start = time.perf_counter()
        results.append(walk(cam, edge))
        seconds.append(time.perf_counter() - start)
    dense, quick = seconds
    error = np.abs(results[0] - results[1]).max() / results[0].max()
    print(f"random walk, {MAPS} maps of {HEIGHT}x{WIDTH}, {torch.get_num_threads()} threads")
    print(f"dense {dense:.2f} s  diagonals {quick:.3f} s  ratio {dense / quick:.0f}")
    print(f"largest difference {error:.1e} of the highest score")


if __name__ == "__main__":
    main()
