"""Unit tests of fbr.files."""
