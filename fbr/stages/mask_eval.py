"""mask_eval: mIoU of pseudo masks, and of what they are cut from at all thresholds."""

from pathlib import Path

from fbr.datasets.prepared import Entry
from fbr.files import pictures
from fbr.files.tables import read_json, write_csv, write_json
from fbr.metrics.scores import Scores
from fbr.metrics.semantic import ThresholdCurve
from fbr.params import MaskBlock
from fbr.stages.images import counted, read_ahead, read_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import Tiles, mask_tiles, track_overlays
from fbr.stages.scores import announce, named, unscored
from fbr.stages.thresholds import sweep


def run(job: Job) -> None:
    """Score the masks as the segmentation network will see them."""
    entries = job.data.split(job.numbers.split)

    def tiles(entry: Entry) -> Tiles:
        mask = pictures.read_mask(_folder(job) / f"{entry.id}.png")
        return mask_tiles(job, entry, mask, job.axes["mask"])

    if not unscored(job, job.numbers.split, entries):
        score(job, entries)
    track_overlays(job, entries, tiles)


def score(job: Job, entries: list[Entry]) -> None:
    """Write the classes and the numbers of one split, and the mIoU of another."""
    numbers = job.numbers
    block = job.params.mask[job.axes["mask"]][job.axes["data"]]
    # Where the threshold is one of the maps, not of what is swept, it is no point of the curve.
    at = None if block.crf_refine or block.superpixel_refine else block.threshold
    scores, curve = scored(job, entries, at)
    per_class = named(scores.per_class(), job.data.classes)
    write_csv(job.out("per_class"), per_class)
    metrics = {
        **scores.metrics(),
        **block.rule,
        **oracle(curve, block),
        "split": numbers.split,
        "images": len(entries),
        "crf": block.crf_refine is not None,
        **(instances(job, entries) if block.irn_infer else {}),
    }
    if numbers.also is not None:
        known = [e for e in job.data.split(numbers.also) if job.data.has("masks", e)]
        if not known:
            log.info("mask_eval: split %s has no ground truth, so no score", numbers.also)
        else:
            scores, curve = scored(job, known, at)
            metrics[f"miou_{numbers.also}"] = scores.confusion.miou()
            if curve:
                metrics[f"miou_oracle_{numbers.also}"] = curve.best()[1]
            metrics[f"images_{numbers.also}"] = len(known)
    write_json(job.out("metrics.json"), metrics)
    announce(job, metrics, per_class)


def instances(job: Job, entries: list[Entry]) -> dict[str, float]:
    """AP of the pseudo instances that come with IRN's masks, where the true ones are known."""
    # Not at the top: the other masks do without torch.
    from fbr.metrics.instance import average_precision
    from fbr.stages.truth import true_instances

    known = {entry.id: entry for entry in entries if job.data.has("instances", entry)}
    if not known:
        return {}
    found = read_json(job.path("irn_infer", "instances.json"))
    truth = true_instances(job.data, known.values())
    scores = average_precision(truth, [r for r in found if r["image_id"] in known])
    del scores["per_class"]
    return scores | {"images_instances": len(known)}


def oracle(curve: ThresholdCurve | None, block: MaskBlock) -> dict[str, float | str]:
    """The best threshold and its mIoU, and of what, or why they are not known."""
    if curve:
        threshold, miou = curve.best()
        found = {"miou_oracle": miou, "threshold_oracle": threshold}
        if block.crf_refine:
            return found | {"oracle": "the CRF's background has the threshold for its probability"}
        return found
    return {"oracle": "not swept: masks keep no scores"}


def scored(
    job: Job, entries: list[Entry], threshold: float | None
) -> tuple[Scores, ThresholdCurve | None]:
    """Compare the masks of these images with the truth, and what they are cut from, where kept."""
    folder, classes = _folder(job), len(job.data.classes)
    # Where one mask has kept its scores, all must: an oracle of a part would pass for the whole's.
    kept = next(folder.glob("*.npz"), None) is not None
    scores, curve = Scores(classes), sweep(classes, threshold) if kept else None

    def read(entry: Entry) -> tuple:
        mask = job.data.ids(folder / f"{entry.id}.png", entry)
        return mask, job.data.mask(entry), read_maps(folder, entry) if kept else None

    for entry, (mask, target, found) in counted(
        read_ahead(entries, read), "mask_eval", len(entries)
    ):
        scores.update(mask, target, entry.id)
        if curve:
            curve.update(found.full(), found.keys, target, entry.id)
    return scores, curve


def _folder(job: Job) -> Path:
    # Any stage that makes masks writes them to the same place under its own name.
    return job.path("irn_infer", "masks")
