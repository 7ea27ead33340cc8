"""seg_eval: what is predicted and scored, and in which ways."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from fbr.errors import Refusal
from fbr.files import pictures, weights
from fbr.files.tables import read_json, write_json
from fbr.metrics.scores import Scores
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.params import SegEval, Way, Windows
from fbr.stages import pool, seg_eval, segmenting
from fbr.stages.training import describe
from fbr.track import Run

PLAIN = SegEval(split="train", scales=[1.0], flip=True, crf=None)


@pytest.fixture
def evaluation(job):
    """A job of seg_eval over a network that has learnt nothing, and truth to compare with."""
    made = job("seg_train")
    torch.manual_seed(0)
    numbers = made.numbers
    network = Segmenter(backbones.build("small", 8), numbers.head, 3, numbers.rates)
    weights.write(made.out("model"), network)
    write_json(made.out("model.json"), describe(made, "0123"))
    rng = np.random.default_rng(0)
    for entry in made.data.entries:
        mask = rng.integers(0, 3, (entry.height, entry.width), np.uint8)
        pictures.write_mask(made.workspace.root / "data/toy/masks" / f"{entry.id}.png", mask)

    def evaluation(numbers: SegEval):
        made = job("seg_eval")
        made.__dict__["numbers"], made.run = numbers, Run(0)
        return made

    return evaluation


def predictions(job) -> dict[str, np.ndarray]:
    return {f.stem: pictures.read_mask(f) for f in sorted(job.out("pred").glob("*.png"))}


def test_predictions_are_of_the_images_size_and_scored(evaluation):
    job = evaluation(PLAIN)
    seg_eval.run(job)
    scores = Scores(3)
    for entry in job.data.split("train"):
        mask = predictions(job)[entry.id]
        assert mask.shape == (entry.height, entry.width)
        scores.update(mask, job.data.mask(entry))
    metrics = read_json(job.out("metrics.json"))
    assert metrics == scores.metrics() | {
        "split": "train",
        "images": 2,
        "scales": [1.0],
        "flip": True,
        "crf": None,
        "windows": None,
        "first_weights": "0123",
    }


@pytest.mark.parametrize("windows", [None, Windows(side=16, overlap=0.25)])
def test_other_ways_are_scored_beside_it_and_change_nothing(evaluation, windows):
    plain = PLAIN.model_copy(update={"windows": windows})
    job = evaluation(plain)
    seg_eval.run(job)
    alone, kept = read_json(job.out("metrics.json")), predictions(job)
    crf = job.params.seg["deeplabv2"]["voc"].seg_eval.crf
    also = {
        "single": Way(scales=[1.0], flip=False, crf=None),
        "full": Way(scales=[0.5, 1.0, 1.5], flip=True, crf=crf),
    }
    job = evaluation(plain.model_copy(update={"also": also}))
    seg_eval.run(job)
    together = read_json(job.out("metrics.json"))
    found = together.pop("also")
    assert together == alone
    assert all(np.array_equal(mask, kept[name]) for name, mask in predictions(job).items())
    for name, way in also.items():
        job = evaluation(SegEval(split="train", windows=windows, **way.model_dump()))
        seg_eval.run(job)
        assert found[name] == {
            k: v for k, v in read_json(job.out("metrics.json")).items() if k in found[name]
        }
        assert found[name]["scales"] == way.scales
        assert found[name]["crf"] == (way.crf and way.crf.model_dump())
        assert found[name]["windows"] == (windows and windows.model_dump())


def test_crfs_in_processes_of_their_own_write_the_same(evaluation, monkeypatch):
    crf = evaluation(PLAIN).params.seg["deeplabv2"]["voc"].seg_eval.crf
    also = {"single": Way(scales=[1.0], flip=False, crf=crf)}
    numbers = PLAIN.model_copy(update={"crf": crf, "also": also})
    job = evaluation(numbers)
    seg_eval.run(job)
    alone, kept = read_json(job.out("metrics.json")), predictions(job)
    started = []

    def streamed(*given):
        started.append(given[2])
        return pool.streamed(*given)

    monkeypatch.setattr(segmenting, "MANY", 0)
    monkeypatch.setattr(segmenting, "streamed", streamed)
    job = evaluation(numbers)
    seg_eval.run(job)
    assert started == [job.threads]
    assert read_json(job.out("metrics.json")) == alone
    assert all(np.array_equal(mask, kept[name]) for name, mask in predictions(job).items())


def test_a_network_that_answers_with_nan_is_refused():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return images.log() * 0

    with pytest.raises(Refusal, match="the network answers with NaN"):
        segmenting.probabilities(Broken(), np.zeros((1, 8, 8, 3), np.uint8), [PLAIN], False)


def test_a_process_for_crfs_does_without_torch():
    said = "import sys, fbr.stages.refining; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_killed_evaluation_predicts_only_what_is_missing_in_any_way(evaluation, monkeypatch):
    numbers = PLAIN.model_copy(update={"also": {"b": Way(scales=[0.5], flip=False, crf=None)}})
    written, real = [], segmenting.pictures.write_mask

    def write(path, mask):
        if len(written) == 3:  # the second image has one way, and lacks the other
            raise KeyboardInterrupt
        written.append(path)
        real(path, mask)

    with monkeypatch.context() as patch:
        patch.setattr(segmenting.pictures, "write_mask", write)
        with pytest.raises(KeyboardInterrupt):
            seg_eval.run(evaluation(numbers))
    looked, several = [], segmenting.several

    def look(network, images, *more, **drawing):
        looked.append(images.shape[:3])
        return several(network, images, *more, **drawing)

    monkeypatch.setattr(segmenting, "several", look)
    job = evaluation(numbers)
    seg_eval.run(job)
    assert looked == [(1, 32, 50)]
    assert sorted(predictions(job)) == ["a", "b"]


def test_windows_still_fill_the_image(evaluation):
    job = evaluation(SegEval(**PLAIN.model_dump() | {"windows": Windows(side=24)}))
    seg_eval.run(job)
    sizes = {e.id: (e.height, e.width) for e in job.data.split("train")}
    assert {name: mask.shape for name, mask in predictions(job).items()} == sizes
