"""Images a second of the toy world on one core: drawn, and drawn and encoded.

python -m benchmarks.toy_world [images]
"""

import sys
from io import BytesIO
from time import perf_counter

from PIL import Image

from fbr.datasets.toy import World, draw

WORLD = World()


def drawn(index):
    return draw(WORLD, 0, index)


def encoded(index):
    scene = drawn(index)
    Image.fromarray(scene.image).save(BytesIO(), "JPEG", quality=95)
    for array in (scene.mask, scene.instances, scene.saliency):
        Image.fromarray(array).save(BytesIO(), "PNG")


def rate(task, images):
    start = perf_counter()
    for index in range(images):
        task(index)
    return images / (perf_counter() - start)


def main(images=200):
    encoded(0)
    print(f"{images} images of {WORLD.size} ± {WORLD.size_jitter} pixels a side")
    print(f"draw                          {rate(drawn, images):6.0f} images/s")
    print(f"draw, JPEG (95) and three PNG {rate(encoded, images):6.0f} images/s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
