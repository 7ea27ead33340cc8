"""What the CRF is told, and the torch engine, which takes several images in this process."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest

from fbr import track
from fbr.files import maps, pictures
from fbr.masks.crf import Crf
from fbr.masks.seeds import confident_seeds, crf_masks, label_energies, score_energies
from fbr.params import Crf as Numbers
from fbr.stages import crf_refine
from tests.unit.stages.conftest import ENTRIES

CRF = Crf(iterations=3, engine="torch")


@pytest.mark.parametrize("mask", ["crf", "crf_ppc"])
def test_masks_are_those_of_the_block_s_unary(job, mask):
    made, (entry, *_) = job("crf_refine", mask=mask), ENTRIES
    folders = [made.path("cam_infer", "cams"), made.out("masks"), made.out("seeds")]
    cam = np.random.default_rng(0).random((2, 10, 9)).astype(np.float16)
    seen = maps.Maps(np.array([1, 2], np.uint8), cam, (entry.height, entry.width))
    maps.write(folders[0] / "a.npz", seen)
    numbers = made.numbers
    crf_refine._Work(made.data.folder, *folders, numbers)([entry])

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


@pytest.fixture
def refining(job, monkeypatch):
    """A job over three images with maps, two at a time."""
    monkeypatch.setattr(crf_refine, "TOGETHER", 2)
    monkeypatch.setattr(crf_refine, "each", None)
    made = job("crf_refine", mask="crf")
    made.numbers = made.numbers.model_copy(update={"crf": Numbers(**asdict(CRF))})
    made.run = track.Run(0)
    for number, entry in enumerate(ENTRIES):
        shape = len(entry.classes), -(-entry.height // 4), -(-entry.width // 4)
        cam = np.random.default_rng(number).random(shape).astype(np.float16)
        seen = maps.Maps(np.array(entry.classes, np.uint8), cam, (entry.height, entry.width))
        maps.write(made.path("cam_infer", "cams") / f"{entry.id}.npz", seen)
    return made


def written(made) -> list[bytes]:
    crf_refine.run(made)
    names = [made.out(kind) / f"{e.id}.png" for kind in ("masks", "seeds") for e in ENTRIES]
    return [name.read_bytes() for name in names]


def test_masks_and_seeds_are_those_of_each_image_alone(refining):
    written(refining)
    numbers = refining.numbers
    thresholds = (numbers.threshold, numbers.fg_threshold, numbers.bg_threshold)
    for entry in ENTRIES:
        seen = maps.read(refining.path("cam_infer", "cams") / f"{entry.id}.npz")
        image = refining.data.image(entry)
        energies = np.stack([label_energies(seen.full(), t) for t in thresholds])
        ((mask, *passes),) = crf_masks([image], [energies], [seen.keys], CRF)
        for kind, expected in (("masks", mask), ("seeds", confident_seeds(*passes))):
            found = pictures.read_mask(refining.out(kind) / f"{entry.id}.png")
            assert np.array_equal(found, expected)


def test_an_interrupted_run_goes_on_with_whole_batches_to_the_same_bytes(refining, monkeypatch):
    whole = written(refining)
    for kind in ("masks", "seeds"):
        shutil.rmtree(refining.out(kind))
    write, refine = pictures.write_mask, crf_refine._Work.refine
    paths, batches = [], []

    def stopping(path, mask):
        paths.append(path)
        if len(paths) == 4:
            raise KeyboardInterrupt
        write(path, mask)

    def watched(work, batch, read):
        batches.append([entry.id for entry in batch])
        refine(work, batch, read)

    monkeypatch.setattr(pictures, "write_mask", stopping)
    with pytest.raises(KeyboardInterrupt):
        crf_refine.run(refining)
    monkeypatch.setattr(pictures, "write_mask", write)
    monkeypatch.setattr(crf_refine._Work, "refine", watched)
    assert written(refining) == whole
    assert batches == [["a", "b"], ["c"]]
