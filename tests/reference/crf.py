"""Mean-field inference by explicit sums over all pairs of pixels, from the equations of the CRF.

One step: Q_i(l) ∝ exp(−U_i(l) + Σ_kernels w Σ_j k_ij Q_j(l)), a Potts model, where k is a Gaussian
of the feature distance divided by the square roots of its row sums at i and at j. The sums include
j = i. No filter is approximated.
"""

import math


def mean_field(image, unary, settings):
    """Return probabilities [class][y][x]; image and unary as in `dense_crf`."""
    classes, height, width = unary.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    near = [(y / settings.gaussian_sxy, x / settings.gaussian_sxy) for y, x in places]
    alike = [
        (
            y / settings.bilateral_sxy,
            x / settings.bilateral_sxy,
            *(float(value) / settings.bilateral_srgb for value in image[y, x]),
        )
        for y, x in places
    ]
    kernels = [
        (settings.gaussian_compat, _kernel(near)),
        (settings.bilateral_compat, _kernel(alike)),
    ]
    energy = [[float(unary[c, y, x]) for c in range(classes)] for y, x in places]
    belief = [_softmax([-u for u in row]) for row in energy]
    for _ in range(settings.iterations):
        update = []
        for i, row in enumerate(energy):
            scores = [-u for u in row]
            for weight, kernel in kernels:
                for c in range(classes):
                    scores[c] += weight * sum(
                        k * q[c] for k, q in zip(kernel[i], belief, strict=True)
                    )
            update.append(_softmax(scores))
        belief = update
    return [
        [[belief[y * width + x][c] for x in range(width)] for y in range(height)]
        for c in range(classes)
    ]


def _kernel(features):
    raw = [[math.exp(-(math.dist(a, b) ** 2) / 2) for b in features] for a in features]
    total = [sum(row) for row in raw]
    return [
        [value / math.sqrt(total[i] * total[j]) for j, value in enumerate(row)]
        for i, row in enumerate(raw)
    ]


def _softmax(scores):
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]
