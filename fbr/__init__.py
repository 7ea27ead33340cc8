"""Weakly supervised semantic segmentation as a versioned, tracked, resumable pipeline around FBR."""

__version__ = "0.1.0"
