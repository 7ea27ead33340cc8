"""irn_infer: spread the maps by a random walk over learnt affinities; masks and instances."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.files.tables import read_json, write_json
from fbr.masks import instances
from fbr.masks.walk import random_walk
from fbr.nets.inputs import normalise
from fbr.nets.irn import AffinityNet
from fbr.params import IrnInfer
from fbr.positions import Positions
from fbr.stages import networks
from fbr.stages.images import alike, counted, read_ahead, with_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.thresholds import write_cut
from fbr.stages.walking import at_positions, in_cells
from fbr.train.processes import device


def run(job: Job) -> None:
    """Images of one size walk together, each of their instances by itself.

    The walk is linear, so a class's scores are the sum of its instances'.
    """
    torch.set_num_threads(job.threads)
    here = device()
    cams, model = job.path("cam_infer", "cams"), job.path("irn_train", "model")
    network, _ = networks.load(model, here)
    key = job.key(cams, model)
    masks = PartialFolder(job.out("masks"), key)
    found = PartialFolder(job.state / "instances", key)
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]

    def done(entry: Entry) -> bool:
        return masks.has(f"{entry.id}.png") and found.has(f"{entry.id}.json")

    todo = [group for group in alike(entries, here) if not all(map(done, group))]
    count = sum(map(len, todo))
    log.info("irn_infer: %d of %d images to do", count, len(entries))

    def refined() -> Iterator[tuple[Entry, tuple[maps.Maps, list[dict]]]]:
        for group, (images, seen) in read_ahead(todo, partial(with_maps, job.data, cams)):
            edges, displacements = relations(network, images, here)
            together = refine(seen, edges, displacements, network.positions, job.numbers)
            yield from zip(group, together, strict=True)

    for entry, (scores, records) in counted(refined(), "irn_infer", count):
        write_json(found / f"{entry.id}.json", [{"image_id": entry.id, **r} for r in records])
        write_cut(masks, entry, scores, job.numbers.threshold)
    merged = [record for e in entries for record in read_json(found / f"{e.id}.json")]
    write_json(job.out("instances.json"), merged)
    masks.finish()
    track_masks(job, entries)


@torch.inference_mode()
def relations(
    network: AffinityNet, images: np.ndarray, device: torch.device
) -> tuple[Tensor, np.ndarray]:
    """Images (n, H, W, 3) → edges (n, h, w) in 0…1, displacements (n, 2, h, w).

    Edges are of the mean logits of an image and its mirror. They stay on the device, where the maps
    will walk.
    """
    batch = normalise(torch.from_numpy(images).to(device))
    edge, displacement = network(torch.cat([batch, batch.flip(3)]))
    there, mirrored = edge.float().chunk(2)
    edge = (there + network.positions.unmirrored(mirrored, images.shape[2])) / 2
    return edge.sigmoid()[:, 0], displacement[: len(images)].float().cpu().numpy()


def refine(
    seen: list[maps.Maps],
    edges: Tensor,
    displacements: np.ndarray,
    positions: Positions,
    numbers: IrnInfer,
) -> list[tuple[maps.Maps, list[dict]]]:
    """Walk from every instance's share of the maps; of each image, class scores and COCO records.

    seen: of images of one size. positions: of edges and displacements. The scores are on a grid as
    fine as theirs, drawn from cell to cell as all that is kept, over the highest at image size.
    """
    grid = edges.shape[1:]
    shares, ids = [], []
    for one, displacement in zip(seen, displacements, strict=True):
        cam = at_positions(one, grid, positions) ** numbers.cam_power
        instance = instances.label_instances(displacement)
        share, of_class = instances.instance_cams(cam, one.keys, instance)
        shares.append(torch.from_numpy(share).to(edges.device))
        ids.append(of_class)
    # Where an image has fewer instances than another, empty maps walk along.
    walked = pad_sequence(shares, batch_first=True)
    walked = random_walk(walked, edges, numbers.beta, numbers.exp_times, numbers.radius)
    scores = in_cells(walked, seen[0].size, positions).cpu().numpy()
    return [
        _gathered(one, found[: len(of_class)], of_class, numbers.threshold)
        for one, found, of_class in zip(seen, scores, ids, strict=True)
    ]


def _gathered(
    seen: maps.Maps, walked: np.ndarray, ids: np.ndarray, threshold: float
) -> tuple[maps.Maps, list[dict]]:
    """Scores of classes and records of instances, from the maps of instances (n, h, w)."""
    classes = np.zeros((len(seen.keys), *walked.shape[1:]), np.float32)
    for scores, key in zip(classes, seen.keys, strict=True):
        walked[ids == key].sum(0, out=scores)
    highest = max(maps.resize(classes, seen.size).max(initial=0), 1e-5)
    detected = instances.detect(walked, ids, threshold, size=seen.size)
    records = [
        {"category_id": int(id), "segmentation": instances.encode(inside), "score": float(score)}
        for inside, id, score in zip(*detected, strict=True)
    ]
    return maps.Maps(seen.keys, (classes / highest).astype(np.float16), seen.size), records
