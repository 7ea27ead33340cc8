"""Run every benchmark of this folder at its small size, one table after another."""

import importlib
from pathlib import Path


def main():
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            print(f"== {file.stem}")
            importlib.import_module(f"benchmarks.{file.stem}").main()
            print()


if __name__ == "__main__":
    main()
