"""Run every benchmark of this folder at its small size, or those named, one table after another.

One that fails does not keep the others from running; it makes the exit code 1.
"""

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = [f.stem for f in sorted(Path(__file__).parent.glob("*.py")) if not f.stem.startswith("_")]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    asked = parser.parse_args().names
    if unknown := sorted(set(asked) - set(NAMES)):
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(NAMES)}")
    failed = []
    for name in asked or NAMES:
        print(f"== {name}", flush=True)
        # A process each: some hold their libraries to one thread.
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
