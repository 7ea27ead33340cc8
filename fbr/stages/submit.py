"""submit: predict the test images and pack a checked archive for the test server."""

from fbr.errors import Refusal
from fbr.files.atomic import PartialFolder, replacing
from fbr.files.submission import Wanted, pack, problems
from fbr.stages.job import Job, log
from fbr.stages.segmenting import predict


def run(job: Job) -> None:
    """Pack only what passes the check: a server counts every upload, a malformed one too."""
    numbers = job.numbers
    model = job.path("seg_train", "model")
    entries = job.data.split(numbers.split)
    folder = PartialFolder(job.state / "pred", job.key(model, job.path("prepare", "index")))
    predict("submit", model, job.data, entries, folder, numbers, job.threads)
    sizes = {e.id: (e.height, e.width) for e in entries}
    with replacing(job.out("submission")) as partial:
        pack(partial, folder.partial, sizes, numbers.archive)
        wanted = Wanted(numbers.archive, sizes, job.data.foreground)
        if found := list(problems(partial, wanted)):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise Refusal(f"submission: {found[0]}{more}; nothing was written")
    log.info("submission.tar.gz: %d masks under %s, checked", len(entries), numbers.archive)
