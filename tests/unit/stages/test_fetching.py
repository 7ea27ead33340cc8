"""Progress of a download: a bar on a terminal, a line now and then in a log."""

import logging
import sys

from fbr.stages import fetching


def test_a_log_gets_a_line_now_and_then(caplog, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with caplog.at_level(logging.INFO, "fbr"), fetching._shown("fetching a", 1e6, "MB") as told:
        told(1_000_000, 9_000_000)
        monkeypatch.setattr(fetching, "QUIET", -1.0)
        told(2_000_000, 9_000_000)
        told(3_000_000, None)
    assert caplog.messages == ["fetching a", "fetching a: 2 of 9 MB", "fetching a: 3 MB"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with fetching._shown("unpacking a", 1, "files") as told:
        told(5, None)
        told(7, 10)
    shown = capsys.readouterr().err
    assert "unpacking a" in shown
    assert "7 files" in shown
