"""submit: predict the test images and pack a checked archive for the test server."""

from fbr.errors import Refusal
from fbr.files.atomic import PartialFolder, replacing
from fbr.files.resume import fingerprint
from fbr.files.submission import Wanted, pack, problems
from fbr.files.tables import read_json
from fbr.params import Predict, check
from fbr.stages.job import Job, log
from fbr.stages.segmenting import predict


def run(job: Job) -> None:
    """Pack only what passes the check: a server counts every upload, a malformed one too."""
    numbers = job.numbers
    model = job.path("seg_train", "model")
    entries = job.data.split(numbers.split)
    way = numbers.way or scored(job)
    key = job.key(model, job.path("prepare", "index")) + fingerprint(way)
    folder = PartialFolder(job.state / "pred", key)
    predict("submit", model, job.data, entries, folder, way, job.threads)
    sizes = {e.id: (e.height, e.width) for e in entries}
    with replacing(job.out("submission")) as partial:
        pack(partial, folder.partial, sizes, numbers.archive)
        wanted = Wanted(numbers.archive, sizes, job.data.foreground)
        if found := list(problems(partial, wanted)):
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise Refusal(f"submission: {found[0]}{more}; nothing was written")
    told = f"scales {way.scales}, flip {way.flip}, {'a' if way.crf else 'no'} CRF"
    count = len(entries)
    log.info("submission.tar.gz: %d masks under %s, checked (%s)", count, numbers.archive, told)


def scored(job: Job) -> Predict:
    """The way in which seg_eval has predicted."""
    file = job.path("seg_eval", "metrics.json")
    known = read_json(file)
    told = {name: known[name] for name in Predict.model_fields if name in known}
    return check(told, Predict, f"{file}, which says how seg_eval predicts")
