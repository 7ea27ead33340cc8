"""irn_infer: spread the maps by a random walk over learnt affinities; masks and instances."""

import numpy as np
import torch
from torch import Tensor

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.files.tables import read_json, write_json
from fbr.masks import instances
from fbr.masks.walk import random_walk
from fbr.nets.inputs import normalise
from fbr.nets.irn import AffinityNet
from fbr.params import IrnInfer
from fbr.stages import networks
from fbr.stages.images import counted, read_ahead
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.thresholds import write_cut
from fbr.train.processes import device


def run(job: Job) -> None:
    """One walk an image: the walk is linear, so a class's scores are the sum of its instances'."""
    torch.set_num_threads(job.threads)
    here = device()
    cams, model = job.path("cam_infer", "cams"), job.path("irn_train", "model")
    network, _ = networks.load(model, here)
    key = job.key(cams, model)
    masks = PartialFolder(job.out("masks"), key)
    found = PartialFolder(job.state / "instances", key)
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    todo = [e for e in entries if not (masks.has(f"{e.id}.png") and found.has(f"{e.id}.json"))]
    log.info("irn_infer: %d of %d images to do", len(todo), len(entries))

    def read(entry: Entry) -> tuple[np.ndarray, maps.Maps]:
        return job.data.image(entry), maps.read(cams / f"{entry.id}.npz")

    for entry, (image, seen) in counted(read_ahead(todo, read), "irn_infer", len(todo)):
        edge, displacement = relations(network, image, here)
        scores, records = refine(seen, edge, displacement, job.numbers)
        write_json(found / f"{entry.id}.json", [{"image_id": entry.id, **r} for r in records])
        write_cut(masks, entry, scores, job.numbers.threshold)
    merged = [record for e in entries for record in read_json(found / f"{e.id}.json")]
    write_json(job.out("instances.json"), merged)
    masks.finish()
    track_masks(job, entries)


@torch.inference_mode()
def relations(
    network: AffinityNet, image: np.ndarray, device: torch.device
) -> tuple[Tensor, np.ndarray]:
    """Edges (h, w) in 0…1, mean over the image and its mirror, and displacements (2, h, w).

    The edges stay on the device, where the maps will walk.
    """
    batch = normalise(torch.from_numpy(image)[None].to(device))
    edge, displacement = network(torch.cat([batch, batch.flip(3)]))
    edge = edge.float().sigmoid()[:, 0]
    return (edge[0] + edge[1].flip(1)) / 2, displacement[0].float().cpu().numpy()


def refine(
    seen: maps.Maps, edge: Tensor, displacement: np.ndarray, numbers: IrnInfer
) -> tuple[maps.Maps, list[dict]]:
    """Walk from every instance's share of the maps; return class scores and COCO records.

    The scores are those of the grid of `edge`, over the highest at image size.
    """
    cam = maps.resize(seen.cam.astype(np.float32), edge.shape) ** numbers.cam_power
    shares, ids = instances.instance_cams(cam, seen.keys, instances.label_instances(displacement))
    shares = torch.from_numpy(shares).to(edge.device)
    walked = random_walk(shares, edge, numbers.beta, numbers.exp_times, numbers.radius)
    walked = walked.cpu().numpy()
    classes = np.zeros((len(seen.keys), *edge.shape), np.float32)
    for scores, key in zip(classes, seen.keys, strict=True):
        walked[ids == key].sum(0, out=scores)
    highest = max(maps.resize(classes, seen.size).max(initial=0), 1e-5)
    detected = instances.detect(maps.resize(walked, seen.size), ids, numbers.threshold)
    records = [
        {"category_id": int(id), "segmentation": instances.encode(inside), "score": float(score)}
        for inside, id, score in zip(*detected, strict=True)
    ]
    return maps.Maps(seen.keys, (classes / highest).astype(np.float16), seen.size), records
