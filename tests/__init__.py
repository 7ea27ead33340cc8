"""Tests, mirrored by layer."""
