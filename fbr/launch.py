"""Start one training as several processes of this machine, as torchrun would across machines.

torchrun turns every exit code into 1 and a page of traceback; here a refusal stays one line and 2.
"""

import os
import socket
import subprocess
import time


def together(command: list[str], processes: int) -> int:
    """Run `command` once per process; the first that fails ends the others, its code counts."""
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
    started = [subprocess.Popen(command, env=os.environ | shared | rank) for rank in ranks]
    try:
        while True:
            codes = [process.poll() for process in started]
            failed = [code for code in codes if code]
            if failed or None not in codes:
                return failed[0] if failed else 0
            time.sleep(0.2)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
