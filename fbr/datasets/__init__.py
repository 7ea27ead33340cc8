"""Datasets: sources that `prepare` draws from, and the one prepared form everything else reads."""

from fbr.datasets import coco, folder, toy_source, voc

SOURCES = {"toy": toy_source, "voc": voc, "coco": coco, "folder": folder}
