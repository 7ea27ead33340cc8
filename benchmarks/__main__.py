"""Run every benchmark of this folder at its small size, one table after another."""

import subprocess
import sys
from pathlib import Path


def main():
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            print(f"== {file.stem}", flush=True)
            # A process each: some hold their libraries to one thread.
            subprocess.run([sys.executable, "-m", f"benchmarks.{file.stem}"], check=True)
            print(flush=True)


if __name__ == "__main__":
    main()
