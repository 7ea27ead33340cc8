"""Work over images in processes: what comes back, what waits, what fails."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from fbr.stages import pool


def noted(item) -> None:
    folder, number = item
    if number == 13:
        raise ValueError("thirteen")
    (folder / str(number)).touch()


def done(folder) -> set[int]:
    return {int(file.name) for file in folder.iterdir()}


def test_items_are_made_no_sooner_than_they_are_needed(tmp_path):
    made = []

    def items():
        for number in range(12):
            made.append(number)
            yield tmp_path, number

    for count, _ in enumerate(pool.streamed(noted, items(), 2), start=1):
        assert len(made) <= min(12, count + 2)
    assert done(tmp_path) == set(range(12))
    assert list(pool.streamed(noted, [], 2)) == []


def test_what_fails_ends_the_work(tmp_path):
    with pytest.raises(ValueError, match="thirteen"):
        list(pool.streamed(noted, ((tmp_path, number) for number in range(10, 40)), 2))
    assert len(done(tmp_path)) < 10

    def broken():
        yield tmp_path, 1
        raise OSError("no more images")

    with pytest.raises(OSError, match="no more images"):
        list(pool.streamed(noted, broken(), 2))


@pytest.fixture
def at_work(tmp_path):
    """A process whose workers have much to do; the first thing that it says is "ready"."""
    (tmp_path / "slow.py").write_text("import time\n\n\ndef work(_): time.sleep(0.1)\n")
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import signal

            import slow
            from fbr.stages import pool

            if __name__ == "__main__":
                # What a shell starts in the background ignores it.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                print("ready", flush=True)
                try:
                    for count, _ in enumerate(pool.each(slow.work, list(range(1000)), 2)):
                        if count == 0:
                            print("begun", flush=True)
                except KeyboardInterrupt:
                    print("stopped", flush=True)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("later", [0.0, 0.05, 0.1, None])
def test_ctrl_c_ends_the_work_and_shows_nothing_of_the_workers(at_work, later):
    """Neither while they start nor while they work; the terminal sends it to all processes."""
    if later is None:
        assert at_work.stdout.readline() == "begun\n"
    else:
        time.sleep(later)
    os.killpg(at_work.pid, signal.SIGINT)
    out, err = at_work.communicate(timeout=60)
    assert (out, err, at_work.returncode) == ("stopped\n", "", 0)


def test_workers_end_with_a_parent_that_is_killed(at_work):
    assert at_work.stdout.readline() == "begun\n"
    at_work.kill()
    # Workers hold its output open, which ends when the last of them has.
    assert at_work.communicate(timeout=30)[0] == ""
