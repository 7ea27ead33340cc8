"""Small trainings, for one process or several: the two must agree."""

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from fbr.cam.fbr import Background
from fbr.cam.method import Seen
from fbr.cam.plain import Plain
from fbr.cam.ppc import Ppc
from fbr.cam.seam import View
from fbr.errors import Refusal
from fbr.losses.segmentation import PLAIN
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.params import LocalPool, LossOptions, Training
from fbr.positions import Onto, Positions
from fbr.stages.seg_train import SegmentationTask
from fbr.train import loop
from fbr.train.loop import Images, Upkeep
from fbr.train.processes import Processes, joined
from tests.reference import numbers

COUNT, SIDE, CLASSES = 20, 32, 3
NUMBERS = {
    "network": {"name": "small", "stride": 8, "weights": "none"},
    "split": "train",
    "steps": 6,
    "batch": 8,
    "crop": SIDE,
    "scale": [1.0, 1.0],
    "flip": False,
    "optimizer": "sgd",
    "lr": 0.02,
    "head_lr": 0.1,
    "weight_decay": 0.001,
    "power": 0.9,
    "bfloat16": False,
    "log_every": 4,
}


def classify() -> nn.Module:
    return Plain(backbones.build("small", 8), CLASSES, Plain.Options())


def segment(loss: str = "cross_entropy", options: LossOptions = PLAIN) -> nn.Module:
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 1 + CLASSES, [1, 2])
    return SegmentationTask(network, loss, options)


def segment_elsewhere() -> nn.Module:
    """From weights at which no rounding tips a ReLU: from those of the others one does."""
    torch.manual_seed(8)
    return segment()


def segment_adaptively() -> nn.Module:
    pool = LocalPool(window=3, sigma=1.0)
    return segment("cross_entropy", LossOptions(pool=pool, power=2.0))


def background(channels: int, **changes) -> Background:
    """FBR without dropout, which each process draws for itself."""
    carried = Background(channels, CLASSES, numbers.fbr(**changes))
    carried.dropout = torch.nn.Identity()
    return carried


def still() -> nn.Module:
    """A backbone for methods that make choices: best classes, nearest centres, ranks, thresholds.

    Shared statistics round differently in two processes, and a rounding that tips one choice would
    be a difference of its own.
    """
    return backbones.freeze_statistics(backbones.build("small", 8))


def classify_with_fbr() -> nn.Module:
    method = Plain(still(), CLASSES, Plain.Options(tap=0.1))
    carried = background(method.width, seed_background=0.3)
    # Full before the first step, so that every checkpoint holds a bank that has wrapped.
    carried.bank.push(torch.rand(50, 6), torch.ones(50, CLASSES), torch.ones(50).bool())
    return method.carry(carried)


def contrast(**options) -> Ppc:
    return Ppc(still(), CLASSES, Ppc.Options.model_validate(numbers.ppc(**options)))


def contrast_with_fbr(**changes) -> nn.Module:
    method = contrast(projection=None)
    return method.carry(background(method.width, bank_each_view=True, **changes))


CASES = {
    "plain": (classify, {}),
    "plain with FBR": (classify_with_fbr, {}),
    "ppc": (contrast, {"steps": 3}),
    # One NROI: of two points that are each other's nearest, k-means++ may begin with either, by a
    # tie that rounding decides. The bank then holds the same rows in another order.
    "ppc with FBR": (lambda: contrast_with_fbr(nrois=1), {"steps": 3}),
    "segmentation": (segment_elsewhere, {}),
    "segmentation, balanced": (lambda: segment("balanced_cross_entropy"), {"clip": 1.0}),
    # Few steps, too: sooner or later a rounding tips a ReLU, and weights are 1e-5 apart.
    "segmentation, locally adaptive": (segment_adaptively, {"steps": 3}),
    "segmentation, accumulated": (segment, {"accumulate": 2}),
}
# What shows that a training did something, where batch norms rest.
MOVED = {
    "plain with FBR": "background.bank.rows",
    "ppc": "classify",
    "ppc with FBR": "bank.rows",
}
INTERRUPTED = ("segmentation", "plain with FBR")


class Killed(Exception):
    """Stands for a kill of all processes."""


def images(spoil: int | None = None) -> Images:
    """Noise with blocks of classes, and void in very different amounts, everywhere in some."""
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    masks = rng.integers(0, 1 + CLASSES, (COUNT, 4, 4), np.uint8).repeat(8, 1).repeat(8, 2)
    for number, mask in enumerate(masks):
        mask.ravel()[: number * SIDE * SIDE // (COUNT - 3)] = 255

    def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        present = [(masks[index] == c).any() for c in range(1, 1 + CLASSES)]
        label = np.array(present, np.float32)
        if index == spoil:
            label[:] = np.nan
        return {"image": photographs[index], "mask": masks[index], "label": label}

    return Images([f"id{i}" for i in range(COUNT)], sample)


def fit(folder: Path, processes: Processes, name: str, *, stop: int = 0, **more) -> dict:
    """Train a case, `stop` ending it as a kill before that step; returns weights and history."""
    torch.manual_seed(7)
    build, changes = CASES[name]
    task = build()
    upkeep = Upkeep("test", folder / name, "k", 1e-9 if stop else 60.0, loader_threads=1)
    groups = [{"params": task.parameters(), "lr": 0.02}]
    recipe = Training.model_validate(NUMBERS | changes)
    real = loop._Run.one_step

    def one_step(run, parts) -> None:
        if stop and run.step == stop:
            raise Killed
        real(run, parts)

    with patch.object(loop._Run, "one_step", one_step):
        history = loop.fit(task, groups, more.get("source", images()), recipe, 0, processes, upkeep)
    return {"network": task.state_dict(), "history": history}


FBR = {
    "fbr": {"cap": 6},
    "prototype": {"background": "prototype"},
    "pixels": {"background": "pixels"},
}
OURS = {  # what we added to FBR, all at once
    "weight": {"l_sim": 0.0, "l_pix": 1.0},
    "one_space": True,
    "sure": {"foreground": 0.6, "background": 0.3},
    "momentum": 0.5,
    "relabel_from": 3,
    "follow_colours": {"steps": 2, "dilations": [1], "contrast": 0.3},
    "hard": 0.5,
    "foreign": True,
    "maps": "product",
}


def fbr_alone(processes: Processes, **changes) -> dict:
    """FBR on given features: its bank, which wraps, and losses and gradients of every step."""
    torch.manual_seed(7)
    carried = background(8, **changes)
    trained = [p for p in carried.parameters() if p.requires_grad]
    share = processes.share(8, 1)
    own = slice(processes.rank * share, (processes.rank + 1) * share)
    generator, steps = torch.Generator().manual_seed(1), []
    for step in range(5):
        features = torch.randn(8, 8, 5, 7, generator=generator).relu()
        scores = torch.randn(8, 1 + CLASSES, 5, 7, generator=generator)
        label = torch.randint(0, 2, (8, CLASSES), generator=generator).float()
        image = torch.randn(8, 3, 20, 28, generator=generator)
        batch = {"label": label[own], "image": image[own], "step": step, "seed": 3}
        found = carried(features[own], scores[own], batch)
        losses = torch.stack([value for name, value in found.items() if name.startswith("l_")])
        gradients = torch.autograd.grad(losses.sum(), trained)
        values = torch.cat([part.detach().flatten() for part in (losses, *gradients)])
        steps.append(processes.sum(values) / processes.world)
    held = carried.bank.state_dict() | {"prototypes": carried.prototypes}
    return {"bank": held, "steps": torch.stack(steps)}


def views_alone(processes: Processes) -> dict:
    """PPC's contrasts and FBR on given features of two views: both banks, losses, gradients."""
    torch.manual_seed(7)
    method = contrast_with_fbr()
    trained = list(method.background.parameters())
    share = processes.share(8, 1)
    own = slice(processes.rank * share, (processes.rank + 1) * share)
    generator, steps = torch.Generator().manual_seed(1), []
    for step in range(5):
        views = [
            (torch.randn(8, method.width, 5, 7, generator=generator).relu()[own], scores[own])
            for scores in torch.randn(2, 8, 1 + CLASSES, 5, 7, generator=generator)
        ]
        label = torch.randint(0, 2, (8, CLASSES), generator=generator).float()
        batch = {"label": label[own], "step": step, "seed": 3}
        size = tuple(views[0][0].shape[2:])
        pair = [View(size, features, refined, refined) for features, refined in views]
        losses = method._contrasts(pair, Onto(size, size, Positions(1)), batch)
        seen = Seen(losses, *views[0], None, ((*views[1], None),))
        with patch.object(method, "look", lambda batch, seen=seen: seen):
            found = method(batch)
        names = (*losses, "l_fb", "l_if", "l_seg", "l_sim")
        losses = torch.stack([found[name] for name in names])
        gradients = torch.autograd.grad(losses.sum(), trained)
        values = torch.cat([part.detach().flatten() for part in (losses, *gradients)])
        steps.append(processes.sum(values) / processes.world)
    banks = [method.background.bank, *method.banks]
    held = {
        f"{name} {n}": part for n, b in enumerate(banks) for name, part in b.state_dict().items()
    }
    return {"bank": held, "steps": torch.stack(steps)}


ALONE = {
    **{name: partial(fbr_alone, **changes) for name, changes in FBR.items()},
    "fbr, ours": partial(fbr_alone, **OURS),
    "views": views_alone,
}


def main(folder: Path) -> None:
    """Write what every case ends in; then interrupted ones, and the words of a refused one."""
    with joined(1) as processes:
        for name in CASES:
            result = fit(folder, processes, name)
            if processes.first:
                torch.save(result, folder / f"{name}.pt")
        for name in INTERRUPTED:
            try:
                fit(folder, processes, name, stop=3)
            except Killed:
                dist.barrier()  # the checkpoint is written
            result = fit(folder, processes, name)
            if processes.first:
                torch.save(result, folder / f"{name}, resumed.pt")
        for name, alone in ALONE.items():
            torch.save(alone(processes), folder / f"{name}{processes.rank}.pt")
        try:
            fit(folder, processes, "plain", source=images(spoil=loop.Order(COUNT, 0)[5]))
        except (Refusal, SystemExit) as refused:
            (folder / f"refused{processes.rank}").write_text(f"{type(refused).__name__}: {refused}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
