"""Unit tests of fbr.cam."""
