"""prepare: bring a dataset into the contract's formats."""

from fbr.datasets import SOURCES
from fbr.datasets.prepared import Prepared, describe, write_index
from fbr.files.atomic import PartialFolder
from fbr.stages.job import Job, log

FOLDERS = ("images", "masks", "instances", "saliency", "companions")


def run(job: Job) -> None:
    """Build the folders beside their final places, then put all of them there."""
    source = job.numbers
    module = SOURCES[source.source]
    folders = {name: PartialFolder(job.out(name), job.key()) for name in FOLDERS}
    entries, names = module.build(source, job.workspace.root, folders)
    for folder in folders.values():
        folder.finish()
    write_index(job.out("index").parent, entries, names)
    log.info("prepared %s: %s", job.axes["data"], describe(Prepared(job.out("index").parent)))
