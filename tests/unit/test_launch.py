"""Several processes started as one command: whose exit code counts, and who is left running."""

import os
import signal
import subprocess
import sys
import time

import pytest

from fbr import launch
from fbr.launch import together


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run two processes of a script, in which `rank` and `note(text)` are known."""
    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    prelude = (
        "import os, sys, time, signal, pathlib\n"
        "rank = int(os.environ['RANK'])\n"
        f"note = (pathlib.Path({str(tmp_path)!r}) / f'rank{{rank}}').write_text\n"
    )

    def run(script: str) -> int:
        return together([sys.executable, "-c", prelude + script], 2)

    return run


def notes(folder) -> list[str]:
    return [(folder / f"rank{n}").read_text() for n in range(2)]


def test_each_knows_its_place(run, tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert run(f"note(' '.join(os.environ[n] for n in {names}))") == 0
    assert notes(tmp_path) == ["0 0 2 2 127.0.0.1", "1 1 2 2 127.0.0.1"]
    ports = run("note(os.environ['MASTER_PORT'])")
    assert ports == 0
    assert len(set(notes(tmp_path))) == 1


def test_one_may_end_before_the_other(run, tmp_path):
    assert run("time.sleep(0.4 * (1 - rank)); note('done')") == 0
    assert notes(tmp_path) == ["done", "done"]


@pytest.mark.parametrize("refusing", [0, 1])
def test_a_refusal_counts_and_ends_the_other(run, tmp_path, refusing):
    script = f"sys.exit(2) if rank == {refusing} else (time.sleep(600), note('lived on'))"
    assert run(script) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusing", [0, 1])
def test_a_refusal_counts_before_the_crash_it_brings_about(run, refusing):
    assert run(f"sys.exit(2 if rank == {refusing} else 1)") == 2


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("say(f'fbr: {rank}'); sys.exit(2)", 2, ["fbr: 0"]),
        ("say(f'{rank}'); sys.exit(2 if rank else 1)", 2, ["0", "1"]),
        ("say(f'{rank}'); sys.exit(1)", 1, ["0", "1"]),
        ("say(f'{rank}')", 0, ["0"]),
        ("say(f'{rank}'); sys.exit(143)", 143, ["0"]),
    ],
)
def test_the_others_are_heard_where_they_tell_of_the_failure(run, capfd, script, code, words):
    # Whoever ends first ends the other: both are to speak before.
    say = "say = lambda text: (print(text, file=sys.stderr, flush=True), time.sleep(0.5))"
    assert run(f"{say}\n{script}") == code
    assert capfd.readouterr().err.split("\n")[:-1] == words


def test_another_failure_keeps_its_code(run):
    assert run("sys.exit(7 * rank)") == 7


def test_a_signal_becomes_what_a_shell_makes_of_it(run):
    assert run("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)") == 137


def test_who_does_not_go_is_killed(run, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.3)
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    assert run(f"sys.exit(2) if rank else None\n{stubborn}") == 2


def test_sigterm_is_passed_on(tmp_path):
    child = (
        "import os, sys, time, signal, pathlib\n"
        "def leave(*_): note.write_text('left'); sys.exit(143)\n"
        f"note = pathlib.Path({str(tmp_path)!r}) / ('rank' + os.environ['RANK'])\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "note.write_text('ready')\n"
        "time.sleep(60)\n"
    )
    parent = (
        "import sys\nfrom fbr.launch import together\n"
        f"sys.exit(together([sys.executable, '-c', {child!r}], 2))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], env=os.environ)
    until = time.monotonic() + 30
    files = [tmp_path / f"rank{n}" for n in range(2)]
    while not all(f.is_file() and f.read_text() == "ready" for f in files):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert notes(tmp_path) == ["left", "left"]


def test_the_handler_before_is_put_back(run):
    before = signal.getsignal(signal.SIGTERM)
    run("")
    assert signal.getsignal(signal.SIGTERM) == before
