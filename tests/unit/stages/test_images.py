"""One pass over images, read ahead in their order."""

import logging
import threading

import pytest
import torch

from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.stages import images
from fbr.stages.images import AHEAD, alike, counted, read_ahead


@pytest.mark.parametrize("count", [0, 1, AHEAD, 3 * AHEAD + 1])
def test_entries_come_in_order_with_what_was_read(count):
    found = list(read_ahead(range(count), lambda entry: -entry))
    assert found == [(i, -i) for i in range(count)]


def test_a_thread_reads_while_the_caller_works():
    readers = set()
    list(read_ahead(range(5), lambda entry: readers.add(threading.get_ident())))
    assert len(readers) == 1
    assert threading.get_ident() not in readers


def test_no_more_is_read_than_fits_ahead():
    read = []
    passing = read_ahead(range(100), read.append)
    next(passing)
    passing.close()
    assert len(read) <= AHEAD + 1


def test_what_cannot_be_read_stops_the_pass_at_its_place():
    def read(entry):
        if entry == 3:
            raise Refusal("images/3.jpg: missing")
        return entry

    passing = read_ahead(range(9), read)
    assert [next(passing)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Refusal, match=r"images/3\.jpg"):
        next(passing)


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch, caplog):
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(images.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO, "fbr"):
        assert list(counted("abcdefgh", "cam_infer", 8)) == list("abcdefgh")
    assert [line.split(",")[0] for line in caplog.messages] == [
        f"cam_infer {n}/8" for n in (3, 6, 8)
    ]
    assert caplog.messages[0].endswith("0.2 a second")


def test_nothing_to_do_says_nothing(caplog):
    with caplog.at_level(logging.INFO, "fbr"):
        assert list(counted([], "cam_infer", 0)) == []
    assert not caplog.messages


def test_images_of_one_size_go_together_until_they_are_enough():
    sizes = [(96, 96), (40, 30), (96, 96), (600, 700), (40, 30)] + [(96, 96)] * 30
    entries = [Entry(str(i), *size, ("train",), ()) for i, size in enumerate(sizes)]
    groups = alike(entries, torch.device("cpu"))
    assert sorted(int(e.id) for group in groups for e in group) == [*range(len(sizes))]
    assert [len(group) for group in groups] == [28, 4, 2, 1]
    assert all(len({(e.height, e.width) for e in group}) == 1 for group in groups)
    assert [e.id for e in groups[0]][:3] == ["0", "2", "5"]
    assert alike([], torch.device("cuda")) == []
    assert len(alike(entries, torch.device("cuda"))) == 3
