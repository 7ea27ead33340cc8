"""What every CAM method owes: flips, odd batches, precision, no loops, a training, carrying FBR."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fbr import params
from fbr.cam import CAM
from fbr.cam.fbr import Background
from fbr.cam.method import Method
from fbr.nets import backbones
from fbr.params import Training
from fbr.train.loop import Images, Upkeep, fit
from fbr.train.processes import Processes
from tests.checkout import ROOT
from tests.reference import numbers
from tests.unit.cam.stand_in import Backbone, batch

CLASSES = 3
OPTIONS = {
    "plain": ("plain", {}),
    "seam": ("seam", numbers.seam()),
    "eps": ("eps", numbers.SALIENCE),
    "ppc_seam": ("ppc", numbers.ppc()),
    "ppc_eps": ("ppc", numbers.ppc(salience=numbers.SALIENCE)),
    "amn": ("amn", {"rates": [1, 2], "deviation": 0.1, "dropout": 0.0, "smoothing": 0.4}),
}
WEIGHTS = {"l_fb": 0.01, "l_if": 0.1, "l_seg": 0.1, "l_sim": 0.1}
EVERY = list(OPTIONS)
CASES = [*EVERY, *(f"{name}_fbr" for name in EVERY)]
# AMN has maps of an image and its labels, and no loss of whole images.
UNTOLD, UNTOLD_CASES = ([name for name in names if "amn" not in name] for names in (EVERY, CASES))


def made(case: str, classes: int = CLASSES, backbone=None, **changes) -> Method:
    torch.manual_seed(0)
    name, with_fbr = case.removesuffix("_fbr"), case.endswith("_fbr")
    method, options = OPTIONS[name]
    options = CAM[method].Options.model_validate(options)
    network = CAM[method](backbone or Backbone(), classes, options).train()
    if not with_fbr:
        return network
    carried = Background(network.width, classes, numbers.fbr(weight=WEIGHTS, **changes))
    carried.dropout = torch.nn.Identity()
    return network.carry(carried)


def values(losses: dict) -> dict[str, torch.Tensor]:
    """What the training loop makes of them."""
    return {
        name: value[0] / value[1].clamp(min=1) if isinstance(value, tuple) else value
        for name, value in losses.items()
    }


@pytest.mark.parametrize("case", [name for name in CASES if name.endswith("_fbr")])
def test_the_background_head_learns_from_maps_that_are_not_refined(case, monkeypatch):
    network, given = made(case), batch(2, CLASSES)
    seen, background = network.look(given), network.background
    views = [(seen.scores, seen.maps), *((scores, maps) for _, scores, maps in seen.more)]
    refines = any(name in case for name in ("seam", "ppc"))
    learnt = []
    monkeypatch.setattr(
        background,
        "_segmentation",
        lambda u, maps, labels: learnt.append(maps) or u.sum(),
    )
    network(given)
    assert len(learnt) == len(views) == network.views
    for maps, (scores, raw) in zip(learnt, views, strict=True):
        assert (raw is not None) == refines
        torch.testing.assert_close(maps, raw if refines else scores[:, 1:])
    if refines:
        first = network.see(given["image"]).maps[:, -CLASSES:]  # the background's comes first
        size = learnt[0].shape[2:]
        resized = torch.nn.functional.interpolate(first, size, mode="bilinear")
        torch.testing.assert_close(learnt[0], first if first.shape[2:] == size else resized)


@pytest.mark.parametrize("case", UNTOLD)
def test_flipping_the_image_flips_the_map(case):
    network = made(case).eval()
    images = batch(2, CLASSES, 33)["image"]
    for axis in (2, 3):
        maps, flipped = network.maps(images), network.maps(images.flip(axis))
        torch.testing.assert_close(flipped.flip(axis), maps, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(flipped, maps, atol=1e-3)


@pytest.mark.parametrize("case", UNTOLD)
def test_classes_are_recognised_by_the_scores_that_the_loss_teaches(case, monkeypatch):
    taught = []

    def loss(scores, shown):
        assert scores.shape == shown.shape
        taught.append(scores)
        return scores.mean()

    for module in ("plain", "seam", "eps"):
        monkeypatch.setattr(f"fbr.cam.{module}.multilabel_soft_margin", loss)
    network, given = made(case), batch(2, CLASSES)
    network.look(given)
    assert torch.equal(network.recognise(given["image"]), taught[0])


def label(kind: str, images: int) -> torch.Tensor:
    shown = torch.zeros(images, CLASSES)
    shown[:, slice({"none": 0, "one": 1, "all": None}[kind])] = 1
    return shown


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shown", ["none", "one", "all"])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_losses_of_odd_batches_are_finite_and_connected(case, shown, images, flat):
    network = made(case)
    given = batch(images, CLASSES) | {"label": label(shown, images)}
    if flat:
        given["image"] = 0 * given["image"]
    found = values(network(given))
    assert all(value.isfinite() for value in found.values())
    sum(value for value in found.values() if value.requires_grad).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("case", EVERY)
def test_bfloat16_gives_the_same_losses(case):
    """On a mean over batches: a seed that tips over to another class moves one of them."""
    found = []
    for enabled in (False, True):
        network, total = made(case), Counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for seed in range(6):
                losses = values(network(batch(8, CLASSES, 64, seed)))
                assert all(value.dtype == torch.float32 for value in losses.values())
                total.update({name: value.item() / 6 for name, value in losses.items()})
        found.append(total)
    for name, value in found[0].items():
        # There a class of few pixels weighs as much as any other.
        rel = 0.2 if name == "intra_view" else 0.05
        assert value == pytest.approx(found[1][name], rel=rel), name


class Counted(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


# Whether a reshape copies may depend on the size: not counted with FBR.
RESHAPES = {"aten.view.default", "aten.clone.default", "aten._unsafe_view.default"}


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_no_loop_over_images_classes_or_pixels(case, monkeypatch):
    monkeypatch.setattr(torch, "equal", lambda one, other: False)  # k-means does all its steps
    counts = []
    for images, classes, side in ((2, 2, 32), (5, 2, 32), (2, 6, 32), (2, 2, 64)):
        for counted in (nullcontext(), Counted()):  # grids are laid once a size, and kept
            with counted:
                losses = values(made(case, classes)(batch(images, classes, side)))
                sum(losses.values()).backward()
        counts.append(counted.counts)
    assert counts[0]
    for other in counts[1:]:
        names = {*other, *counts[0]} - (RESHAPES if case.endswith("_fbr") else set())
        assert all(other[name] == counts[0][name] for name in names)


def recipe() -> Training:
    return Training.model_validate(
        {
            "network": {"name": "small", "stride": 8, "weights": "none"},
            "split": "train",
            "steps": 16,
            "batch": 6,
            "crop": 32,
            "scale": [1.0, 1.0],
            "flip": False,
            "optimizer": "adamw",
            "lr": 0.003,
            "head_lr": 0.003,
            "weight_decay": 0.01,
            "power": 0.9,
            "log_every": 4,
        }
    )


def squares() -> Images:
    """One square of a colour that tells its class, on grey; it is what is salient."""

    def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        own = index % CLASSES
        image = rng.integers(90, 130, (32, 32, 3), np.uint8)
        top, left = rng.integers(0, 16, 2)
        place = np.s_[top : top + 16, left : left + 16]
        image[place][..., own] += 120
        saliency = np.zeros((32, 32), np.uint8)
        saliency[place] = 255
        return {
            "image": image,
            "label": np.eye(CLASSES, dtype=np.float32)[own],
            "saliency": saliency,
        }

    return Images([f"id{i}" for i in range(12)], sample)


@pytest.mark.parametrize("case", UNTOLD_CASES)
def test_a_training_learns(case, tmp_path):
    network = made(case, backbone=backbones.build("small", 8))
    upkeep = Upkeep("test", tmp_path, "k", 60.0, loader_threads=1)
    groups = [{"params": list(network.parameters()), "lr": 0.003}]
    processes = Processes(0, 1, torch.device("cpu"))
    history = fit(network, groups, squares(), recipe(), 0, processes, upkeep)
    first, last = history[0], history[-1]
    assert last["classification"] < 0.6 * first["classification"]
    if case.startswith("eps"):
        assert last["saliency"] < first["saliency"]


def test_every_recipe_has_the_options_of_its_method():
    for variant, recipes in params.load(ROOT / "params.yaml").cam.items():
        for data, block in recipes.items():
            for stage, recipe in block:
                if isinstance(recipe, params.CamTrain):
                    where = f"cam.{variant}.{data}.{stage}.options"
                    assert params.check(recipe.options, CAM[recipe.method].Options, where)
                    assert (recipe.fbr is not None) == ("_fbr" in variant)
