"""The whole threshold curve at once, against one argmax and count per threshold and image.

Images of VOC size and number of classes. Both ways run in this process on the same arrays, which
are already in memory: what the curve saves in reading files comes on top.

    python -m benchmarks.threshold_curve [images]
"""

import sys
from time import perf_counter

import numpy as np
from scipy.ndimage import gaussian_filter

from fbr.masks.seeds import label_map
from fbr.metrics.semantic import Confusion, ThresholdCurve

CLASSES = 21
SIZE = (375, 500)


def example(seed):
    """Smooth scores of one to three classes and a target with void pixels."""
    random = np.random.default_rng(seed)
    k = 1 + seed % 3
    noise = gaussian_filter(random.random((k, *SIZE), np.float32), (0, 20, 20))
    cam = (noise - noise.min()) / np.ptp(noise)
    keys = (random.permutation(CLASSES - 1)[:k] + 1).astype(np.uint8)
    target = np.append(keys, [0, 255]).astype(np.uint8)[random.integers(0, k + 2, SIZE)]
    return cam, keys, target


def together(images):
    curve = ThresholdCurve(CLASSES)
    for image in images:
        curve.update(*image)
    return curve.curve()["miou"]


def apart(images):
    confusions = {t: Confusion(CLASSES) for t in ThresholdCurve(CLASSES).thresholds}
    for threshold, confusion in confusions.items():
        for cam, keys, target in images:
            confusion.update(label_map(cam, keys, threshold), target)
    return [confusion.miou() for confusion in confusions.values()]


def seconds(task, images):
    start = perf_counter()
    result = task(images)
    return perf_counter() - start, result


def main(count=8):
    images = [example(seed) for seed in range(count)]
    together(images[:1])
    fast, curve = seconds(together, images)
    slow, separate = seconds(apart, images)
    print(f"{count} images of {SIZE[1]}×{SIZE[0]}, {len(separate)} thresholds")
    print(f"one pass          {1000 * fast / count:8.1f} ms an image")
    print(f"pass by threshold {1000 * slow / count:8.1f} ms an image")
    print(f"ratio             {slow / fast:8.1f}")
    print(f"largest difference of the two curves: {np.abs(curve - separate).max():.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
