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


SALIENCE = {"threshold": 0.4, "balance": 0.5}


def seam(**changes) -> dict:
    """Options of SEAM, for images of 32 pixels."""
    return {"view": 16, "hard_share": 0.2, "levels": [-3, -2], "level_widths": [6, 8]} | changes


def ppc(**changes) -> dict:
    """Options of PPC on SEAM, for images of 32 pixels."""
    numbers = {
        "salience": None,
        "projection": 32,
        "temperature": 0.1,
        "seed_background": 0.3,
        "prototype_part": 4,
        "foreground_only": False,
        "hard": 0.6,
        "kept": 0.5,
        "weight": {"cross_prototype": 0.1, "cross_cam": 0.2, "intra_view": 0.3},
    }
    return seam() | numbers | changes
