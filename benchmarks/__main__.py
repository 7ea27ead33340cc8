"""Run every benchmark of this folder at its small size, one table after another.

One that fails does not keep the others from running; it makes the exit code 1.
"""

import subprocess
import sys
from pathlib import Path


def main():
    failed = []
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            print(f"== {file.stem}", flush=True)
            # A process each: some hold their libraries to one thread.
            if subprocess.run([sys.executable, "-m", f"benchmarks.{file.stem}"]).returncode:
                failed.append(file.stem)
            print(flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
