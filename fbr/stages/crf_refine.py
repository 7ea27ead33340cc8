"""crf_refine: dense CRF masks, and confident seeds where two passes agree."""

from dataclasses import dataclass
from pathlib import Path

from fbr.datasets.prepared import Entry, read_image
from fbr.files import maps, pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import Crf
from fbr.masks.seeds import confident_seeds, crf_mask, score_crf_mask
from fbr.params import CrfRefine
from fbr.stages.images import counted
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.pool import each


@dataclass(frozen=True)
class _Work:
    """All that a worker needs; it gets one id after another."""

    data: Path
    cams: Path
    masks: Path
    seeds: Path
    numbers: CrfRefine

    def __call__(self, entry: Entry) -> None:
        image = read_image(self.data, entry)
        found = maps.read(self.cams / f"{entry.id}.npz")
        cam, numbers = found.full(), self.numbers
        crf = Crf(**numbers.crf.model_dump())
        if numbers.threshold is None:
            mask = score_crf_mask(image, cam, found.keys, numbers.background_power, crf)
        else:
            mask = crf_mask(image, cam, found.keys, numbers.threshold, crf, numbers.confidence)
        seeds = confident_seeds(
            image,
            cam,
            found.keys,
            numbers.fg_threshold,
            numbers.bg_threshold,
            crf,
            numbers.confidence,
        )
        pictures.write_mask(self.seeds / f"{entry.id}.png", seeds)
        pictures.write_mask(self.masks / f"{entry.id}.png", mask)


def run(job: Job) -> None:
    """Refine every image that has maps, one process a core; what is done already is skipped."""
    cams = job.path("cam_infer", "cams")
    key = job.key(cams, job.path("prepare", "index"))
    masks, seeds = (PartialFolder(job.out(name), key) for name in ("masks", "seeds"))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    todo = [e for e in entries if not all(f.has(f"{e.id}.png") for f in (masks, seeds))]
    log.info("crf_refine: %d of %d images to do", len(todo), len(entries))
    work = _Work(job.data.folder, cams, masks.partial, seeds.partial, job.numbers)
    for _ in counted(each(work, todo, job.threads), "crf_refine", len(todo)):
        pass
    seeds.finish()
    masks.finish()
    track_masks(job, entries)
