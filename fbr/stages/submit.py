"""submit: predict the test images and pack a checked archive for the test server."""

import gzip
import io
import tarfile
from pathlib import Path

from PIL import Image

from fbr.datasets.prepared import Entry, Prepared
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, replacing
from fbr.stages.job import Job, log
from fbr.stages.segmenting import predict


def run(job: Job) -> None:
    """Pack only what passes the check: a server counts every upload, a malformed one too."""
    numbers = job.numbers
    model = job.path("seg_train", "model")
    entries = job.data.split(numbers.split)
    folder = PartialFolder(job.state / "pred", job.key(model, job.path("prepare", "index")))
    predict("submit", model, job.data, entries, folder, numbers, job.threads)
    with replacing(job.out("submission")) as partial:
        pack(partial, folder.partial, entries, numbers.archive)
        check(partial, entries, job.data, numbers.archive)
    log.info("submission.tar.gz: %d masks under %s, checked", len(entries), numbers.archive)


def pack(archive: Path, folder: Path, entries: list[Entry], inside: str) -> None:
    """Write a tar.gz with names in order and no dates: equal masks give equal bytes."""
    with (
        open(archive, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for entry in sorted(entries, key=lambda e: e.id):
            content = (folder / f"{entry.id}.png").read_bytes()
            member = tarfile.TarInfo(f"{inside}/{entry.id}.png")
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def check(archive: Path, entries: list[Entry], data: Prepared, inside: str) -> None:
    """Refuse a missing or foreign file, a wrong size, mode or palette, an id out of range."""
    wanted = {f"{inside}/{e.id}.png": e for e in entries}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            entry = wanted.pop(member.name, None)
            if entry is None or not member.isfile():
                raise Refusal(f"submission: found {member.name}, expected {inside}/<id>.png only")
            try:
                with Image.open(io.BytesIO(tar.extractfile(member).read())) as picture:
                    fits = picture.size == (entry.width, entry.height) and picture.mode == "P"
                    palette = bytes(picture.getpalette() or b"") if fits else b""
                    most = picture.getextrema()[1] if fits else 0
            except (OSError, SyntaxError) as error:
                raise Refusal(f"submission: {member.name} cannot be read ({error})") from None
            known = pictures.PALETTE[: len(palette)]
            if not fits or not palette or palette != known or most > data.foreground:
                raise Refusal(
                    f"submission: {member.name} is {picture.size} {picture.mode} with ids up to "
                    f"{most}; expected {(entry.width, entry.height)}, VOC's palette, ids up to "
                    f"{data.foreground}"
                )
    if wanted:
        raise Refusal(f"submission: {len(wanted)} masks missing, the first is {min(wanted)}")
