"""Speeds, each against what it has to keep up with: `python -m benchmarks` runs them all."""
