"""Unit tests of the functions of fbr.stages that need no run."""
