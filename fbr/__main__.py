"""Run a stage or a tool as `python -m fbr <name>`, which is how dvc.yaml spells its commands."""

from fbr.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
