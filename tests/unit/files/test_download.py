"""Downloads from a local server that breaks, lies and serves the wrong bytes."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from fbr.errors import Refusal
from fbr.files import download
from fbr.files.download import fetch
from tests.unit.files.server import Server

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with Server() as server:
        server.files["a.tar"] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "a.tar"


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def got(target) -> bool:
    """The file is there whole, and nothing else is."""
    return target.read_bytes() == CONTENT and visible(target.parent) == ["a.tar"]


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_file_comes_whole(server, target, md5):
    seen = []
    fetch([server.url("a.tar")], target, md5, lambda done, total: seen.append((done, total)))
    assert got(target)
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_is_not_fetched_again(server, target):
    fetch([server.url("a.tar")], target, MD5)
    fetch([server.url("a.tar")], target, MD5)
    fetch([server.url("a.tar")], target)
    assert len(server.asked) == 1


def test_a_wrong_file_put_there_by_hand_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(b"something else")
    fetch([server.url("a.tar")], target, MD5)
    assert got(target)


@pytest.mark.parametrize(
    "faults",
    [
        ["breaks"],
        ["breaks", "breaks", "closes", "breaks"],
        ["closes", "500", "503"],
        ["breaks", "no ranges"],
        ["says more"],
        ["no length"],
        ["breaks", "no length"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("md5", [MD5, None], ids=["md5", "no md5"])
def test_a_bad_line_ends_well(server, target, faults, md5):
    server.faults = faults
    fetch([server.url("a.tar")], target, md5)
    assert got(target)


def test_a_broken_download_goes_on_and_asks_for_nothing_twice(server, target):
    server.faults = ["breaks"]
    fetch([server.url("a.tar")], target, MD5)
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("fault", ["wrong", "page", "403", "another range", "says less", "closes"])
def test_the_next_mirror_is_asked(server, target, fault):
    target.parent.mkdir()
    if fault == "another range":
        target.with_name("a.tar.partial").write_bytes(CONTENT[:1000])
    with Server() as bad:
        bad.files["a.tar"], bad.always = CONTENT, fault
        fetch([bad.url("a.tar"), server.url("a.tar")], target, MD5)
    assert got(target)


def test_bytes_of_another_mirror_are_gone_on_with(server, target):
    with Server() as bad:
        bad.files["a.tar"] = CONTENT
        bad.faults, bad.always = ["breaks"], "closes"
        fetch([bad.url("a.tar"), server.url("a.tar")], target, MD5)
    assert got(target)
    assert server.asked == [f"bytes={len(CONTENT) // 2}-"]


def test_a_partial_file_of_wrong_bytes_is_fetched_anew(server, target):
    target.parent.mkdir()
    target.with_name("a.tar.partial").write_bytes(b"x" * 1000)
    fetch([server.url("a.tar")], target, MD5)
    assert got(target)


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_partial_file_that_reaches_the_end(server, target, size):
    target.parent.mkdir()
    target.with_name("a.tar.partial").write_bytes((CONTENT + b"12345")[:size])
    fetch([server.url("a.tar")], target, MD5)
    assert got(target)


@pytest.mark.parametrize("tag", ['"2"', None])
def test_a_file_that_changed_meanwhile_is_not_pieced_together(server, target, monkeypatch, tag):
    server.files["a.tar"] = b"y" * 5000
    server.faults, server.always = ["breaks"], "closes"
    with pytest.raises(Refusal):
        fetch([server.url("a.tar")], target)
    server.files["a.tar"], server.tag, server.always = CONTENT, tag, None
    fetch([server.url("a.tar")], target)
    assert got(target)


def test_no_good_mirror_is_one_line_with_every_reason(server, target):
    server.always = "wrong"
    with pytest.raises(Refusal) as refused:
        fetch([server.url("a.tar"), server.url("b.tar"), "http://127.0.0.1:1/a"], target, MD5)
    said = str(refused.value)
    assert "\n" not in said
    assert f"{server.url('a.tar')}: other bytes than the md5 {MD5} says" in said
    assert f"{server.url('b.tar')}: HTTP 404" in said
    assert "127.0.0.1:1/a: " in said
    assert "refused" in said
    assert visible(target.parent) == []


def test_a_line_that_stays_dead_keeps_what_came(server, target):
    server.faults, server.always = ["breaks"], "closes"
    with pytest.raises(Refusal, match="run again to go on"):
        fetch([server.url("a.tar")], target, MD5)
    assert visible(target.parent) == ["a.tar.partial", "a.tar.partial.json"]
    server.always = None
    fetch([server.url("a.tar")], target, MD5)
    assert got(target)
    assert server.asked[-1] == f"bytes={len(CONTENT) // 2}-"


def test_a_server_that_never_gives_more_is_given_up(server, target):
    server.always = "says more"
    server.files["a.tar"] = CONTENT[:1000]
    target.parent.mkdir()
    server.tag = None
    fetch([server.url("a.tar")], target)  # 416 says where the end is
    assert target.read_bytes() == CONTENT[:1000]


def test_a_full_disk_is_told_before_anything_comes(server, target, monkeypatch):
    class Full:
        free = 10

    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: Full)
    with pytest.raises(Refusal, match=r"0\.0 GB free, expected 0\.0 GB for a\.tar"):
        fetch([server.url("a.tar")], target, MD5)


def _fetch(url, target):
    os.environ["no_proxy"] = "127.0.0.1"
    download.CHUNK = 512

    def slowly(done: int, total: int | None) -> None:
        time.sleep(0.002)

    fetch([url], target, MD5, slowly)


def test_a_killed_download_goes_on(server, target):
    partial = target.with_name("a.tar.partial")
    worker = multiprocessing.get_context("spawn").Process(
        target=_fetch, args=(server.url("a.tar"), target)
    )
    worker.start()
    until = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size >= 100_000):
        assert time.monotonic() < until
        assert worker.is_alive()
        time.sleep(0.001)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    kept = partial.stat().st_size
    assert kept < len(CONTENT)
    fetch([server.url("a.tar")], target, MD5)
    assert server.asked[-1] == f"bytes={kept}-"
    assert got(target)
