"""Walk and CRF on a GPU against the CPU; skips, with its reason, where there is no GPU."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fbr.masks.crf import Crf, unary_from_labels
from fbr.masks.tensor_crf import mean_field
from fbr.masks.walk import random_walk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_walks_agree():
    random = torch.Generator().manual_seed(0)
    cam = torch.rand(3, 2, 40, 50, generator=random)
    edge = torch.rand(3, 40, 50, generator=random) ** 4
    found = random_walk(cam.cuda(), edge.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), random_walk(cam, edge), rtol=1e-5, atol=1e-6)


def test_crfs_agree_and_repeat():
    random = np.random.default_rng(0)
    images, energies = [], []
    for size in ((120, 90), (64, 150)):
        image = gaussian_filter(random.normal(128, 60, (*size, 3)), (3, 3, 0)) * 4 - 384
        labels = gaussian_filter(random.normal(size=(3, *size)), (0, 5, 5)).argmax(axis=0)
        images.append(torch.from_numpy(image.clip(0, 255).astype(np.uint8)))
        energies.append(torch.from_numpy(unary_from_labels(labels, 3)[None]))
    there = [image.cuda() for image in images], [energy.cuda() for energy in energies]
    once, again = (mean_field(*there, Crf()) for _ in range(2))
    for on_gpu, repeated, on_cpu in zip(
        once, again, mean_field(images, energies, Crf()), strict=True
    ):
        assert torch.equal(on_gpu, repeated)
        assert (on_gpu.cpu() - on_cpu).abs().mean() < 1e-3
        assert (on_gpu.cpu().argmax(1) == on_cpu.argmax(1)).float().mean() > 0.999
