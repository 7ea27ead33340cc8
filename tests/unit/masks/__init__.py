"""Unit tests of fbr.masks."""
