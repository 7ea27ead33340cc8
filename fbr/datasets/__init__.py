"""Datasets: sources that `prepare` draws from, and the one prepared form everything else reads."""

from fbr.datasets import coco, toy_source, voc

SOURCES = {"toy": toy_source, "voc": voc, "coco": coco}
