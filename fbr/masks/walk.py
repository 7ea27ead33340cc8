"""Random walk that spreads class scores up to the class boundaries (IRN, CVPR 2019)."""

import numpy as np
import torch
from scipy import sparse

from fbr.masks.affinity import edge_to_affinity, path_index


def random_walk(
    cam: np.ndarray,
    edge: np.ndarray | torch.Tensor,
    beta: float = 10,
    exp_times: int = 8,
    radius: int = 5,
) -> np.ndarray:
    """Return (cam * (1 - edge)) T^(2^exp_times), (k, h, w) float32.

    cam: (k, h, w), any k including 0. edge: (h, w) boundary map in 0..1.
    T[i, j] = a_ij^beta / sum_i a_ij^beta over the pixels i closer than `radius` to j, with a_jj = 1
    and a_ij = 1 - the strongest boundary between them. Columns sum to one: with a row of scores on
    its left each step replaces a score by a weighted mean of its neighbourhood, the paper's
    S^-1 A with a column of scores on its right. So a map stays inside its initial range.
    """
    edge = torch.as_tensor(edge, dtype=torch.float32)
    below = lower_affinity(edge, beta, radius)
    above = below.T
    total = 1 + below.sum(axis=0, dtype=np.float64) + below.sum(axis=1, dtype=np.float64)
    norm = (1 / total).astype(np.float32)

    spread = np.empty(cam.shape, np.float32)
    for result, start in zip(spread, cam * (1 - edge.numpy()), strict=True):
        # One map at a time: products with diagonals are fast for vectors and slow for matrices.
        flow = start.ravel().astype(np.float32)
        for _ in range(2**exp_times):
            flow = norm * (flow + below @ flow + above @ flow)
        result[:] = flow.reshape(result.shape)
    return spread


def lower_affinity(edge: torch.Tensor, beta: float, radius: int) -> sparse.dia_array:
    """Return the part below the diagonal of the (hw, hw) affinities ^ beta of an edge (h, w)."""
    affinity = edge_to_affinity(edge[None, None], radius)[0].numpy() ** beta
    steps = np.array(path_index(radius).displacements) @ (edge.shape[1], 1)
    # In a map narrower than the neighbourhood, two displacements can share a diagonal.
    diagonals, which = np.unique(steps, return_inverse=True)
    values = np.zeros((len(diagonals), edge.numel()), np.float32)
    np.add.at(values, which, affinity.reshape(len(steps), -1))
    return sparse.dia_array((values, -diagonals), shape=(edge.numel(),) * 2)
