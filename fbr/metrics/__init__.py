"""Metrics that are fed one image at a time and can be merged across processes."""
