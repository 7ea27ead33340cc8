"""Label maps and confident seeds, pixel by pixel, from the rule."""


def label_map(cam, keys, threshold):
    """Strongest class of each pixel, 0 where it does not exceed the threshold; lists of lists."""
    _, height, width = cam.shape
    labels = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            best = threshold
            for score, key in zip(cam[:, y, x], keys, strict=True):
                if score > best:
                    best, labels[y][x] = score, int(key)
    return labels


def confident(surely_class, maybe_class):
    """Class where the strict pass has one, 255 where only the loose pass has one, else 0."""
    seeds = []
    for strict_row, loose_row in zip(surely_class, maybe_class, strict=True):
        row = []
        for strict, loose in zip(strict_row, loose_row, strict=True):
            if strict:
                row.append(int(strict))
            elif loose:
                row.append(255)
            else:
                row.append(0)
        seeds.append(row)
    return seeds
