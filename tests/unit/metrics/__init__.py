"""Unit tests of fbr.metrics."""
