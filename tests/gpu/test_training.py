"""The loop on a GPU against the loop on the CPU; skips, with its reason, where there is no GPU."""

import numpy as np
import pytest
import torch

from fbr.nets import backbones
from fbr.params import Network, Range, Training
from fbr.train.loop import Images, Upkeep, fit
from fbr.train.processes import Processes
from tests.unit.cam.stand_in import batch
from tests.unit.cam.test_methods import CASES, CLASSES, made

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
# Each device draws by itself.
SAMPLED = {"l_fb", "l_if", "intra_view", "nroi_spread"}


def history(device: str, case: str, folder) -> list[dict]:
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
    given = {key: value for key, value in batch(16, CLASSES).items() if key not in ("step", "seed")}
    pictures = given["image"].permute(0, 2, 3, 1).mul(50).add(120).clamp(0, 255)
    given = {key: value.numpy() for key, value in (given | {"image": pictures}).items()}
    given["image"] = given["image"].astype(np.uint8)
    images = Images(
        [str(i) for i in range(16)], lambda i, _: {key: value[i] for key, value in given.items()}
    )
    network = made(case, backbone=backbones.build("small", 8))
    groups = [{"params": list(network.parameters()), "lr": 1e-3}]
    upkeep = Upkeep("test", folder, "key", 1e9, 1)
    processes = Processes(0, 1, torch.device(device))
    return fit(network, groups, images, training, 0, processes, upkeep)


@pytest.mark.parametrize("case", CASES)
def test_losses_on_gpu_and_cpu_agree(case, tmp_path):
    cpu, gpu = (history(device, case, tmp_path / device) for device in ("cpu", "cuda"))
    assert cpu[0].keys() == gpu[0].keys()
    drawn = SAMPLED & cpu[0].keys()
    # From what is drawn on, trainings part.
    for ours, theirs in zip(gpu[:1] if drawn else gpu, cpu, strict=not drawn):
        for name in theirs.keys() - SAMPLED:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-5), name
