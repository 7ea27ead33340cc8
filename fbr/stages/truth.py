"""True instances, as detections are scored against them."""

from collections.abc import Iterable

import numpy as np

from fbr.datasets.prepared import VOID, Entry, Prepared
from fbr.masks.instances import encode


def true_instances(data: Prepared, entries: Iterable[Entry]) -> list[dict]:
    """COCO records of the instances of all these images."""
    return [record for entry in entries for record in of_image(data, entry)]


def of_image(data: Prepared, entry: Entry) -> list[dict]:
    """COCO records of an image's instances; the class of each is the one its mask shows most.

    Void is a record of its own: what is found there counts neither for nor against.
    """
    instances, mask = data.instances(entry), data.mask(entry)
    records = []
    for number in np.unique(instances[(instances > 0) & (instances < VOID)]):
        inside = instances == number
        classes = np.bincount(mask[inside], minlength=VOID + 1)[1:VOID]
        if classes.any():
            records.append(
                {
                    "image_id": entry.id,
                    "category_id": int(classes.argmax()) + 1,
                    "segmentation": encode(inside),
                }
            )
    void = (instances == VOID) | (mask == VOID)
    if void.any():
        records.append({"image_id": entry.id, "category_id": VOID, "segmentation": encode(void)})
    return records
