"""Unit tests of fbr.show."""
