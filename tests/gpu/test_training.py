"""The loop on a GPU against the loop on the CPU; skips, with its reason, where there is no GPU."""

import numpy as np
import pytest
import torch

from fbr.cam.plain import Plain
from fbr.nets import backbones
from fbr.params import Network, Range, Training
from fbr.train.loop import Images, Upkeep, fit
from fbr.train.processes import Processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def history(device: str, folder) -> list[dict]:
    training = Training(
        network=Network(name="small", stride=8, weights="none"),
        split="train",
        steps=4,
        batch=8,
        crop=32,
        scale=Range(low=1.0, high=1.0),
        flip=False,
        optimizer="adamw",
        lr=1e-3,
        head_lr=1e-3,
        weight_decay=0.0,
        power=0.9,
        bfloat16=False,
        log_every=1,
    )
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, (16, 6)).astype(np.float32)
    images = Images(
        [str(i) for i in range(16)], lambda i, _: {"image": pictures[i], "label": labels[i]}
    )
    torch.manual_seed(0)
    network = Plain(backbones.build("small", 8), 6, Plain.Options())
    groups = [{"params": list(network.parameters()), "lr": 1e-3}]
    upkeep = Upkeep("test", folder, "key", 1e9, 1)
    processes = Processes(0, 1, torch.device(device))
    return fit(network, groups, images, training, 0, processes, upkeep)


def test_losses_on_gpu_and_cpu_agree(tmp_path):
    cpu, gpu = history("cpu", tmp_path / "cpu"), history("cuda", tmp_path / "gpu")
    for ours, theirs in zip(gpu, cpu, strict=True):
        assert ours["classification"] == pytest.approx(theirs["classification"], rel=1e-3)
