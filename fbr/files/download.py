"""Fetch a large file whole: mirror after mirror, going on where the last try stopped."""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fbr.errors import NO_ROOM, Refusal
from fbr.files.atomic import write_text

Told = Callable[[int, int | None], None]  # bytes that are there, and bytes in all where known
CHUNK = 1 << 20
PATIENCE = 30.0  # seconds without a byte
TRIES = 4  # of one mirror in a row that bring nothing new
PAUSE = 1.0  # seconds before the second of them, doubled each time
BROKEN = (OSError, http.client.HTTPException)


class _Unfit(Exception):
    """This mirror has nothing for us; the next one may."""


def fetch(
    urls: list[str], target: Path, md5: str | None = None, told: Told = lambda done, total: None
) -> None:
    """Bring a file to `target`, from the first of the mirrors that gives it whole.

    What has come so far lies in `<target>.partial` and is asked for no second time, after a kill
    or from another mirror. A file that is there already is checked, and fetched anew if wrong.
    """
    partial = target.with_name(target.name + ".partial")
    with _alone(partial):
        if target.is_file():
            if fits(target, md5):
                return
            target.unlink()
        reasons = []
        for url in urls:
            try:
                _from_mirror(url, partial, md5, told)
            except _Unfit as reason:
                reasons.append(f"{url}: {reason}")
                continue
            _validator(partial).unlink(missing_ok=True)
            os.replace(partial, target)
            return
    raise Refusal(
        f"{target.name}: cannot be fetched ({'; '.join(reasons)}); run again to go on, or put the "
        f"file into {target.parent} by hand"
    )


def fits(file: Path, md5: str | None) -> bool:
    """Whether a file has this checksum; without one, nothing speaks against it."""
    if md5 is None:
        return True
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() == md5


def _from_mirror(url: str, partial: Path, md5: str | None, told: Told) -> None:
    """Fill `partial` from one mirror; bytes of an earlier try that spoil it are fetched anew."""
    resumed = partial.stat().st_size > 0
    _fill(url, partial, told)
    if fits(partial, md5):
        return
    _empty(partial)
    if resumed:
        _fill(url, partial, told)
        if fits(partial, md5):
            return
        _empty(partial)
    raise _Unfit(f"other bytes than the md5 {md5} says")


def _fill(url: str, partial: Path, told: Told) -> None:
    """Ask until all has come; a try that brought something is followed by another."""
    most, failed = partial.stat().st_size, 0
    while True:
        try:
            if _ask(url, partial, told):
                return
            reason = "it closes before the end"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code < 500 and error.code not in (408, 429):
                raise _Unfit(reason) from None
        except BROKEN as error:
            if getattr(error, "errno", None) in NO_ROOM:  # our disk's fault, not the network's
                raise
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if partial.stat().st_size > most else failed + 1
        most = max(most, partial.stat().st_size)
        if failed == TRIES:
            raise _Unfit(reason)
        if failed:
            time.sleep(PAUSE * 2 ** (failed - 1))


def _ask(url: str, partial: Path, told: Told) -> bool:
    """One request for what is missing; whether everything is there now."""
    have = partial.stat().st_size
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    known = _read_validator(partial)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if known.get("url") == url and known.get("tag"):
            request.add_header("If-Range", known["tag"])
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing behind what we have: that is all of it, or more than there ever was.
        if _total(error.headers) == have:
            return True
        _empty(partial)
        return False
    with answer:
        goes_on = answer.status == 206 and _begin(answer.headers) == have
        if have and answer.status == 206 and not goes_on:
            raise _Unfit("it answers with another range than the one asked for")
        total = _total(answer.headers) if goes_on else None
        if total is None and (rest := _length(answer.headers)) is not None:
            total = rest + (have if goes_on else 0)
        if goes_on and known.get("total") not in (None, total):
            _empty(partial)  # of a file that has changed since
            return False
        if not goes_on:
            _empty(partial)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag and tag.startswith("W/"):
            tag = None
        write_text(_validator(partial), json.dumps({"url": url, "tag": tag, "total": total}))
        _room(partial, total, have if goes_on else 0)
        try:
            with open(partial, "ab" if goes_on else "wb") as file:
                _pour(answer, file, total, told)
        except OSError as error:
            if error.errno in NO_ROOM:
                error.filename = str(partial)
            raise
    return total is None or partial.stat().st_size == total


def _pour(answer: IO[bytes], file: IO[bytes], total: int | None, told: Told) -> None:
    # read1 hands over what came before a connection broke; read would throw it away.
    while chunk := answer.read1(CHUNK):
        file.write(chunk)
        told(file.tell(), total)


def _total(headers: http.client.HTTPMessage) -> int | None:
    found = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _begin(headers: http.client.HTTPMessage) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _length(headers: http.client.HTTPMessage) -> int | None:
    found = headers.get("Content-Length", "")
    return int(found) if found.isdigit() else None


def _room(partial: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if total is not None and total - have > free:
        raise Refusal(
            f"{partial.parent}: {free / 1e9:.1f} GB free, expected {(total - have) / 1e9:.1f} GB "
            f"for {partial.stem}; make room or link another place there"
        )


def _empty(partial: Path) -> None:
    os.truncate(partial, 0)
    _validator(partial).unlink(missing_ok=True)


def _validator(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _read_validator(partial: Path) -> dict:
    try:
        return json.loads(_validator(partial).read_text())
    except (FileNotFoundError, ValueError):
        return {}


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Hold the partial file: two datasets may want the same archive at once."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    lock = partial.with_name(f".{partial.stem}.lock")
    with open(lock, "a") as file:
        with suppress(OSError):  # Some network file systems know no locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        partial.touch()
        try:
            yield
        finally:
            if partial.is_file() and not partial.stat().st_size:
                partial.unlink()
                _validator(partial).unlink(missing_ok=True)
