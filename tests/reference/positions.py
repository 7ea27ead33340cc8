"""Where the positions of maps lie, one by one."""

import math

import torch

Grid = tuple[int, float]  # stride, and the pixel of the first position


def hat(place, at):
    """Weight of the position `at` for a place among them."""
    return max(0.0, 1 - abs(place - at))


def read(maps, rows, columns):
    """Maps (B, C, h, w) at places (row, column) among their positions, edges going on."""
    height, width = maps.shape[2:]
    found = torch.zeros(*maps.shape[:2], len(rows), len(columns), dtype=torch.double)
    for i, down in enumerate(rows):
        for j, across in enumerate(columns):
            down, across = min(max(down, 0), height - 1), min(max(across, 0), width - 1)
            for row in range(height):
                for column in range(width):
                    share = hat(down, row) * hat(across, column)
                    found[:, :, i, j] += share * maps[:, :, row, column].double()
    return found


def onto(maps, image, view, grid: Grid):
    """Maps of an image read at each position of a smaller view of it."""
    stride, first = grid
    places = []
    for whole, part in zip(image, view, strict=True):
        side = []
        for number in range(math.ceil(part / stride)):
            pixel = first + number * stride
            # The middle of this pixel of the view, in pixels of the image, in positions.
            side.append((((pixel + 0.5) * whole / part - 0.5) - first) / stride)
        places.append(side)
    return read(maps, *places)


def drawn(maps, view, size, grid: Grid, mirrored):
    """Maps of a view at each pixel of a picture of it; mirrored, the view is its mirror image."""
    stride, first = grid
    places = []
    for axis, (part, whole) in enumerate(zip(view, size, strict=True)):
        side = []
        for number in range(whole):
            pixel = (number + 0.5) * part / whole - 0.5
            if mirrored and axis == 1:
                pixel = part - 1 - pixel
            side.append((pixel - first) / stride)
        places.append(side)
    return read(maps, *places)


def nearest(picture, size, grid: Grid, within: Grid):
    """Of a map (H, W) with positions `within` an image, at each position of `grid` the nearest."""
    found = torch.zeros(size, dtype=picture.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            at = []
            for number, side in zip((i, j), picture.shape, strict=True):
                pixel = grid[1] + number * grid[0]
                apart = [abs(within[1] + k * within[0] - pixel) for k in range(side)]
                # Of two that lie as near, the one below.
                at.append(max(k for k in range(side) if apart[k] == min(apart)))
            found[i, j] = picture[*at]
    return found


def around(picture, size, finer, grid: Grid):
    """Means of a picture over the parts of a square around each position, a hundredth at a time."""
    stride, first = grid
    height, width = picture.shape[2:]
    steps = 20 * stride // math.gcd(stride, finer)
    found = torch.zeros(*picture.shape[:2], size[0] * finer, size[1] * finer, dtype=torch.double)

    def pixels(cell, side):
        begin = first + 0.5 - stride / 2 + cell * stride / finer
        places = [begin + (k + 0.5) * stride / finer / steps for k in range(steps)]
        return [min(max(math.floor(place), 0), side - 1) for place in places]

    for i in range(size[0] * finer):
        for j in range(size[1] * finer):
            rows, columns = pixels(i, height), pixels(j, width)
            values = picture[:, :, rows][:, :, :, columns].double()
            found[:, :, i, j] = values.mean((2, 3))
    return found
