"""Unit tests of fbr.train."""
