"""Small trainings, for one process or several: the two must agree."""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from fbr.cam.plain import Plain
from fbr.errors import Refusal
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.params import Training
from fbr.stages.seg_train import SegmentationTask
from fbr.train import loop
from fbr.train.loop import Images, Upkeep
from fbr.train.processes import Processes, joined

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


def segment(loss: str = "cross_entropy") -> nn.Module:
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 1 + CLASSES, [1, 2])
    return SegmentationTask(network, loss)


CASES = {
    "plain": (classify, {}),
    "segmentation": (segment, {}),
    "segmentation, balanced": (lambda: segment("balanced_cross_entropy"), {"clip": 1.0}),
    "segmentation, accumulated": (segment, {"accumulate": 2}),
}


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
    build, numbers = CASES[name]
    task = build()
    upkeep = Upkeep("test", folder / name, "k", 1e-9 if stop else 60.0, loader_threads=1)
    groups = [{"params": task.parameters(), "lr": 0.02}]
    recipe = Training.model_validate(NUMBERS | numbers)
    real = loop._Run.one_step

    def one_step(run, parts) -> None:
        if stop and run.step == stop:
            raise Killed
        real(run, parts)

    with patch.object(loop._Run, "one_step", one_step):
        history = loop.fit(task, groups, more.get("source", images()), recipe, 0, processes, upkeep)
    return {"network": task.state_dict(), "history": history}


def main(folder: Path) -> None:
    """Write what every case ends in; then an interrupted one, and the words of a refused one."""
    with joined(1) as processes:
        for name in CASES:
            result = fit(folder, processes, name)
            if processes.first:
                torch.save(result, folder / f"{name}.pt")
        try:
            fit(folder, processes, "segmentation", stop=3)
        except Killed:
            dist.barrier()  # the checkpoint is written
        result = fit(folder, processes, "segmentation")
        if processes.first:
            torch.save(result, folder / "resumed.pt")
        try:
            fit(folder, processes, "plain", source=images(spoil=loop.Order(COUNT, 0)[5]))
        except (Refusal, SystemExit) as refused:
            (folder / f"refused{processes.rank}").write_text(f"{type(refused).__name__}: {refused}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
