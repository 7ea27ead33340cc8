"""What the CRF is told: labels at a threshold, or the scores themselves."""

import numpy as np
import pytest

from fbr.files import maps, pictures
from fbr.masks.crf import Crf
from fbr.masks.seeds import confident_seeds, crf_masks, label_energies, score_energies
from fbr.stages.crf_refine import _Work
from tests.unit.stages.conftest import ENTRIES


@pytest.mark.parametrize("mask", ["crf", "crf_ppc"])
def test_masks_are_those_of_the_block_s_unary(job, mask):
    made, (entry, *_) = job("crf_refine", mask=mask), ENTRIES
    folders = [made.path("cam_infer", "cams"), made.out("masks"), made.out("seeds")]
    cam = np.random.default_rng(0).random((2, 10, 9)).astype(np.float16)
    seen = maps.Maps(np.array([1, 2], np.uint8), cam, (entry.height, entry.width))
    maps.write(folders[0] / "a.npz", seen)
    numbers = made.numbers
    _Work(made.data.folder, *folders, numbers)([entry])

    cam = seen.full()
    seeds = [label_energies(cam, t) for t in (numbers.fg_threshold, numbers.bg_threshold)]
    if mask == "crf":
        first = label_energies(cam, numbers.threshold)
    else:
        first = score_energies(cam, numbers.background_power)
    expected, *passes = crf_masks(
        [made.data.image(entry)] * 3,
        [energies[None] for energies in (first, *seeds)],
        [seen.keys] * 3,
        Crf(**numbers.crf.model_dump()),
    )
    assert np.array_equal(pictures.read_mask(folders[1] / "a.png"), expected[0])
    seeds = confident_seeds(*(found[0] for found in passes))
    assert np.array_equal(pictures.read_mask(folders[2] / "a.png"), seeds)
