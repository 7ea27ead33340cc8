"""Unit tests of fbr.nets."""
