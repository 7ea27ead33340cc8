"""Weakly supervised semantic segmentation as a versioned, resumable pipeline around FBR."""

__version__ = "0.1.0"
