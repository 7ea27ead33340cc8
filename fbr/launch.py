"""Start one training as several processes of this machine, as torchrun would across machines.

torchrun turns every exit code into 1 and a page of traceback; here a refusal stays one line and 2.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import FrameType

PATIENCE, GRACE = 10.0, 30.0  # seconds from the end of one to SIGTERM for all, and to SIGKILL
QUIET = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # codes that need no words


def together(command: list[str], processes: int) -> int:
    """Run `command` once per process; the first that fails ends the others.

    SIGTERM is passed on. The code of a refusal (2) counts before that of those whom it left alone.
    The first process has the terminal; of the others only that is shown which tells of the failure.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    ranks = [{"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]
    said = [None, *(tempfile.TemporaryFile() for _ in ranks[1:])]  # noqa: SIM115
    started: list[subprocess.Popen] = []
    received = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        for process in started:
            process.send_signal(number)

    earlier = signal.signal(signal.SIGTERM, pass_on)
    try:
        for rank, errors in zip(ranks, said, strict=True):
            environment = os.environ | shared | rank
            started.append(subprocess.Popen(command, env=environment, stderr=errors))
        while None in (codes := [process.poll() for process in started]) and not any(codes):
            time.sleep(0.2)
    finally:
        _end(started)
        signal.signal(signal.SIGTERM, earlier)
    ended = [process.returncode for process in started]
    telling = [ended.index(2)] if 2 in ended else [n for n, c in enumerate(ended) if c not in QUIET]
    for errors in (said[n] for n in telling if n):
        errors.seek(0)
        sys.stderr.write(errors.read().decode(errors="replace"))
    code = next((code for code in codes if code), 0)
    if 2 in ended:
        return 2
    if received and code:
        return 128 + received
    return code if code >= 0 else 128 - code


def _end(started: list[subprocess.Popen]) -> None:
    """Let all end by themselves, as most do who have lost one of them; then make them."""
    for seconds, make in ((PATIENCE, subprocess.Popen.terminate), (GRACE, subprocess.Popen.kill)):
        until = time.monotonic() + seconds
        while None in [process.poll() for process in started] and time.monotonic() < until:
            time.sleep(0.1)
        for process in started:
            make(process)
    for process in started:
        process.wait()
