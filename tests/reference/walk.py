"""The random walk with its dense transition matrix, squared (Ahn et al., 2019)."""

import numpy as np

from tests.reference import affinity


def transition(edge, beta, radius):
    """Return T (hw, hw): symmetric affinities ^ beta, each column divided by its sum."""
    height, width = edge.shape
    matrix = np.eye(height * width)
    for (y, x), (dy, dx) in affinity.pairs(height, width, radius):
        i, j = y * width + x, (y + dy) * width + x + dx
        matrix[i, j] = matrix[j, i] = affinity.affinity(edge, (y, x), (dy, dx)) ** beta
    for j in range(height * width):
        matrix[:, j] /= matrix[:, j].sum()
    return matrix


def random_walk(cam, edge, beta, exp_times, radius):
    """Return (cam * (1 - edge)) T^(2^exp_times)."""
    matrix = transition(edge, beta, radius)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    return ((cam * (1 - edge)).reshape(len(cam), -1) @ matrix).reshape(cam.shape)
