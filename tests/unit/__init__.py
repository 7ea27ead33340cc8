"""Unit tests, one folder a layer."""
