"""crf_refine: dense CRF masks, and confident seeds where two passes agree."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fbr.datasets.prepared import Entry, read_image
from fbr.files import maps, pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.crf import Crf, dense_crfs
from fbr.masks.seeds import confident_seeds, label_energies, likeliest, score_energies
from fbr.params import CrfRefine
from fbr.stages.images import counted, read_ahead, read_maps
from fbr.stages.job import Job, log
from fbr.stages.overlays import track_masks
from fbr.stages.pool import each
from fbr.stages.thresholds import write_swept

TOGETHER = 4  # images at a time: with three passes each, enough to fill a GPU


@dataclass(frozen=True)
class _Work:
    """All that a worker needs; it gets some images after others."""

    data: Path
    cams: Path
    masks: Path
    seeds: Path
    numbers: CrfRefine

    def __call__(self, batch: list[Entry]) -> None:
        self.refine(batch, self.read(batch))

    def read(self, batch: list[Entry]) -> tuple[list[np.ndarray], list[maps.Maps]]:
        images = [read_image(self.data, entry) for entry in batch]
        return images, [read_maps(self.cams, entry) for entry in batch]

    def refine(self, batch: list[Entry], read: tuple[list[np.ndarray], list[maps.Maps]]) -> None:
        images, found = read
        energies = [self.energies(seen) for seen in found]
        beliefs = dense_crfs(images, energies, Crf(**self.numbers.crf.model_dump()))
        for entry, seen, belief in zip(batch, found, beliefs, strict=True):
            mask, surely_class, maybe_class = likeliest(seen.keys, belief)
            seeds = confident_seeds(surely_class, maybe_class)
            pictures.write_mask(self.seeds / f"{entry.id}.png", seeds)
            write_swept(self.masks / f"{entry.id}.npz", seen.keys, belief[0, 1:])
            pictures.write_mask(self.masks / f"{entry.id}.png", mask)

    def energies(self, seen: maps.Maps) -> np.ndarray:
        """Of three passes: for the mask, and for what is surely and what may be a class."""
        cam, n = seen.full(), self.numbers
        first = (
            score_energies(cam, n.background_power)
            if n.threshold is None
            else label_energies(cam, n.threshold, n.confidence)
        )
        seeds = [label_energies(cam, t, n.confidence) for t in (n.fg_threshold, n.bg_threshold)]
        return np.stack([first, *seeds])


def run(job: Job) -> None:
    """Refine every image that has maps; what is done already is skipped.

    One process a core does an image at a time, but the engine `torch` stays in this one and takes
    several: always the same ones, so that an image's neighbours cannot touch its bytes.
    """
    cams = job.path("cam_infer", "cams")
    key = job.key(cams, job.path("prepare", "index"))
    masks, seeds = (PartialFolder(job.out(name), key) for name in ("masks", "seeds"))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    many = job.numbers.crf.engine == "torch"
    together = TOGETHER if many else 1
    batches = [entries[i : i + together] for i in range(0, len(entries), together)]
    todo = [b for b in batches if not all(f.has(f"{e.id}.png") for e in b for f in (masks, seeds))]
    count = sum(map(len, todo))
    log.info("crf_refine: %d of %d images to do", count, len(entries))
    work = _Work(job.data.folder, cams, masks.partial, seeds.partial, job.numbers)
    done = _here(work, todo, job.threads) if many else each(work, todo, job.threads)
    for _ in counted(done, "crf_refine", count):
        pass
    seeds.finish()
    masks.finish()
    track_masks(job, entries)


def _here(work: _Work, todo: list[list[Entry]], threads: int) -> Iterator[Entry]:
    # Not at the top: the workers of the other engines do without torch.
    import torch

    torch.set_num_threads(threads)
    for batch, read in read_ahead(todo, work.read):
        work.refine(batch, read)
        yield from batch
