"""Pseudo masks from class activation maps: arrays in, arrays out."""
