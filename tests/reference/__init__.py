"""Slow literal twins: each equation as loops, to test the fast code against."""
