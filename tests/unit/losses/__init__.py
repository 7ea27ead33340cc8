"""Unit tests of fbr.losses."""
