"""cam_cut: the maps as they are, cut at a threshold: what every other way to masks must beat."""

from fbr.datasets.prepared import Entry
from fbr.files import maps
from fbr.files.atomic import PartialFolder
from fbr.stages.images import counted, read_ahead, read_maps
from fbr.stages.job import Job
from fbr.stages.overlays import track_masks
from fbr.stages.thresholds import write_cut


def run(job: Job) -> None:
    """Cut the maps of every image that has some."""
    cams = job.path("cam_infer", "cams")
    masks = PartialFolder(job.out("masks"), job.key(cams, job.path("prepare", "index")))
    entries = [e for e in job.data.entries if (cams / f"{e.id}.npz").is_file()]
    todo = [e for e in entries if not masks.has(f"{e.id}.png")]

    def read(entry: Entry) -> maps.Maps:
        return read_maps(cams, entry)

    for entry, found in counted(read_ahead(todo, read), "cam_cut", len(todo)):
        write_cut(masks, entry, found, job.numbers.threshold)
    masks.finish()
    track_masks(job, entries)
