"""Speeds, each against what it has to keep up with: `python -m benchmarks` runs them all."""

from pathlib import Path


def resident(which: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / 1e6
