"""The recipes of params.yaml hold the constants of papers and codes that they are named after."""

import pytest

from fbr import params

CRFS = {  # iterations; Gaussian sxy, compat; bilateral sxy, srgb, compat
    "irn": (10, 3, 3, 50, 5, 10),
    "ppc": (5, 3, 3, 80, 13, 10),
    "affinity": (10, 3, 3, 80, 13, 10),
    "test": (10, 1, 3, 67, 3, 4),
    "ppc_test": (1, 3, 3, 32, 13, 10),
}
IRN = {
    "irn_train.steps": 990,
    "irn_train.batch": 32,
    "irn_train.crop": 512,
    "irn_train.scale": {"low": 0.5, "high": 1.5},
    "irn_train.lr": 0.1,
    "irn_train.head_lr": 1.0,
    "irn_train.weight_decay": 1e-4,
    "irn_train.radius": 10,
    "irn_infer": {"cam_power": 1.3, "beta": 10, "exp_times": 8, "radius": 5, "threshold": 0.25},
}
PSA = {
    "psa_train.batch": 8,
    "psa_train.crop": 448,
    "psa_train.lr": 0.01,
    "psa_train.radius": 5,
    "psa_infer.beta": 8,
    "psa_infer.exp_times": 6,
    "psa_infer.threshold": 0.27,
}
DEEPLAB = {  # deeplab-pytorch's, whatever its first weights
    "seg_train.batch": 10,
    "seg_train.crop": 321,
    "seg_train.momentum": 0.9,
    "seg_train.weight_decay": 5e-4,
    "seg_train.power": 0.9,
    "seg_train.input_scales": [0.5, 0.75],
    "seg_train.rates": [6, 12, 18, 24],
    "seg_train.network.keep_norm": ["statistics", "affine"],
    "seg_eval.crf": CRFS["test"],
}
ADVCAM = DEEPLAB | {
    "seg_train.steps": 30_000,
    "seg_train.lr": 2.5e-4,
    "seg_train.head_lr": 2.5e-3,
    "seg_train.bias_lr": 2,
    "seg_train.scale.one_of": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
    "seg_train.loss": "balanced_cross_entropy",
    "seg_train.network.weights": "imagenet",
}
STOCK = DEEPLAB | {
    "seg_train.steps": 20_000,
    "seg_train.accumulate": 2,
    "seg_train.lr": 2.5e-4,
    "seg_train.scale.one_of": [0.5, 0.75, 1.0, 1.25, 1.5],
    "seg_train.network.weights": "weights/deeplabv2_resnet101_coco.safetensors",
}
PPC = {
    "seg_train.steps": 20_000,
    "seg_train.batch": 10,
    "seg_train.crop": 448,
    "seg_train.scale": {"low": 0.5, "high": 1.5},
    "seg_train.shift.levels": 10,
    "seg_train.flip": True,
    "seg_train.lr": 1e-3,
    "seg_train.head_lr": 1e-2,
    "seg_train.bias_lr": 2,
    "seg_train.momentum": 0.9,
    "seg_train.weight_decay": 5e-4,
    "seg_train.power": 0.9,
    "seg_eval.scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    "seg_eval.flip": True,
    "seg_eval.crf": CRFS["ppc_test"],
}
RECIPES = {
    "mask.crf.voc": {"crf_refine.confidence": 0.7, "crf_refine.crf": CRFS["irn"]},
    "mask.crf_ppc.voc": {"crf_refine.background_power": 8, "crf_refine.crf": CRFS["ppc"]},
    "mask.amn_seeds.voc": {
        "crf_refine.fg_threshold": 0.3,
        "crf_refine.bg_threshold": 0.05,
        "crf_refine.crf": CRFS["irn"],
    },
    "mask.irn.voc": IRN,
    "mask.irn.coco": {k: v for k, v in IRN.items() if k.startswith("irn_train.")}
    | {"irn_train.steps": 7758, "irn_infer.threshold": 0.22},
    "mask.psa_seeds.voc": {"crf_refine.crf": CRFS["affinity"]},
    "mask.psa.voc": PSA | {"psa_train.steps": 10_576},
    "seg.deeplabv2.voc": ADVCAM,
    "seg.deeplabv2.coco": ADVCAM
    | {"seg_train.steps": 100_000, "seg_train.lr": 2e-4, "seg_train.head_lr": 2e-3},
    "seg.deeplabv2_coco_init.voc": STOCK,
    "seg.deeplabv1.voc": PPC | {"seg_train.network.name": "resnet38d"},
    "seg.deeplabv1_resnet101.voc": PPC | {"seg_train.network.name": "resnet101"},
    "seg.deeplabv2_ppc.voc": PPC | {"seg_train.network.name": "resnet101"},
}


def asked(block: dict, key: str) -> object:
    for name in key.split("."):
        block = block[name]
    if isinstance(block, dict) and "gaussian_sxy" in block:
        kernels = ("gaussian_sxy", "gaussian_compat")
        kernels += ("bilateral_sxy", "bilateral_srgb", "bilateral_compat")
        return (block["iterations"], *(block[name] for name in kernels))
    return block


@pytest.mark.parametrize("where", RECIPES)
def test_a_recipe_has_the_published_constants(where):
    axis, name, data = where.split(".")
    block = getattr(params.load(), axis)[name][data].model_dump(exclude_none=True)
    assert {key: asked(block, key) for key in RECIPES[where]} == RECIPES[where]


def test_affinities_seeds_are_the_thresholds_of_their_powers():
    """(1 - t)^α = t where the background's score meets the strongest class's, α 4 and 24."""
    seeds = params.load().mask["psa_seeds"]["voc"].crf_refine
    for threshold, power in ((seeds.fg_threshold, 4), (seeds.bg_threshold, 24)):
        assert (1 - threshold) ** power == pytest.approx(threshold, rel=1e-2)
