"""Blocks of params.yaml for tests, every required number in one place."""

from fbr.params import Fbr


def fbr(weight=(), **changes) -> Fbr:
    """FBR's numbers, small, all weights 1; `weight` and `changes` replace some of them."""
    weights = {"l_fb": 1.0, "l_if": 1.0, "l_seg": 1.0, "l_sim": 1.0} | dict(weight)
    numbers = {
        "mode": "intent",
        "width": 6,
        "scores": "cam",
        "seed_background": 0.1,
        "nrois": 3,
        "start": "k-means++",
        "iterations": 10,
        "bank": 50,
        "bank_dtype": "float32",
        "negatives": 8,
        "temperature": 0.5,
        "unsure_rank": 0.6,
        "unsure_entropy": 0.1,
        "blank_background": True,
        "prototype_part": 4,
        "background_below": 0.05,
    }
    return Fbr.model_validate(numbers | {"weight": weights} | changes)
