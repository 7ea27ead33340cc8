"""superpixel_refine: regions of like colour, each with the class that the maps give it."""

from dataclasses import dataclass
from pathlib import Path

from fbr.datasets.prepared import Entry, read_image
from fbr.files import pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.superpixels import Growing, grow, over_segment, region_mask, region_means
from fbr.params import SuperpixelRefine
from fbr.stages.images import counted, read_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.pool import each
from fbr.stages.thresholds import write_swept


@dataclass(frozen=True)
class _Work:
    """All that a worker needs; it gets one image after another."""

    data: Path
    cams: Path
    masks: Path
    numbers: SuperpixelRefine

    def __call__(self, entry: Entry) -> None:
        n = self.numbers
        image = read_image(self.data, entry)
        found = read_maps(self.cams, entry)
        superpixels = over_segment(image, n.superpixels, n.compactness, n.sigma)
        growing = Growing(n.scales, n.border, n.border_share, n.small_first)
        regions = grow(image, superpixels, growing, n.regions, n.least)
        cam = found.full()
        mask = region_mask(cam, found.keys, regions, n.threshold, n.margin)
        means = region_means(cam, regions)[:, 0, regions]
        write_swept(self.masks / f"{entry.id}.npz", found.keys, means)
        pictures.write_mask(self.masks / f"{entry.id}.png", mask)


def run(job: Job) -> None:
    """Refine every image that has maps, one process a core; what is done already is skipped."""
    cams = job.path("cam_infer", "cams")
    masks = PartialFolder(job.out("masks"), job.key(cams, job.path("prepare", "index")))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    todo = [e for e in entries if not masks.has(f"{e.id}.png")]
    log.info("superpixel_refine: %d of %d images to do", len(todo), len(entries))
    work = _Work(job.data.folder, cams, masks.partial, job.numbers)
    for _ in counted(each(work, todo, job.threads), "superpixel_refine", len(todo)):
        pass
    masks.finish()
    track_masks(job, entries)
