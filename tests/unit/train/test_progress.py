"""What a person sees: lines in a log, a bar on a terminal."""

import io
import logging
import re

import pytest

from fbr.train import progress
from fbr.train.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when told to."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_lines_have_losses_rate_pace_and_time_left(clock, caplog):
    with caplog.at_level(logging.INFO, "fbr"), Progress("cam_train", 100, 700, 32) as shown:
        clock.now += 20
        shown.step(200)
        shown.losses(200, {"classification": 0.25, "near": 1e-5}, 0.003)
    assert caplog.messages == [
        "cam_train 200/700 classification 0.25 near 1e-05 lr 0.003 160.0 images/s 1:40 left"
    ]
    assert shown.images_per_second(200) == 160


def test_lines_come_every_ten_seconds_and_at_the_end(clock, caplog):
    with caplog.at_level(logging.INFO, "fbr"), Progress("x", 0, 10, 1) as shown:
        for step in range(1, 11):
            clock.now += 4
            shown.losses(step, {"a": 1.0}, 0.1)
    assert [int(re.match(r"x (\d+)/10", line)[1]) for line in caplog.messages] == [3, 6, 9, 10]


def test_other_processes_are_silent(clock, caplog):
    with caplog.at_level(logging.INFO, "fbr"), Progress("x", 0, 1, 1, shown=False) as shown:
        clock.now += 60
        shown.losses(1, {"a": 1.0}, 0.1)
    assert not caplog.messages


def test_a_training_that_has_just_begun_divides_by_nothing(clock, caplog):
    with caplog.at_level(logging.INFO, "fbr"), Progress("x", 5, 6, 8) as shown:
        shown.losses(6, {"a": 1.0}, 0.1)
        assert shown.images_per_second(5) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_no_lines(clock, caplog, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with caplog.at_level(logging.INFO, "fbr"), Progress("cam_train", 0, 50, 4) as shown:
        shown.losses(10, {"classification": 0.25}, 0.003)
        for step in (10, 50):
            clock.now += 10
            shown.step(step)
    said = terminal.getvalue()
    assert "cam_train" in said
    assert "50/50 classification 0.25 lr 0.003" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
    assert not caplog.messages


def test_the_bar_ends_with_an_error(clock, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    shown = Progress("x", 0, 2, 1)
    with pytest.raises(ValueError, match="broken"), shown:
        raise ValueError("broken")
    assert not shown._bar.live.is_started
