"""A job's paths, numbers and fingerprint, and what it leaves in run.json."""

import contextlib

import numpy as np
import pytest

from fbr.datasets.prepared import Prepared
from fbr.files import pictures
from fbr.files.tables import read_json
from fbr.stages.job import tracked


def test_paths_are_those_of_its_axes(job, tmp_path):
    made = job("seg_train")
    top = tmp_path / "results/toy/s1/plain"
    assert made.out("model") == top / "irn/deeplabv2/seg_train/model.safetensors"
    assert made.path("cam_train", "model") == top / "cam_train/model.safetensors"
    assert made.path("crf_refine", "seeds", mask="crf") == top / "crf/seeds"
    assert made.state == top / "irn/deeplabv2/seg_train/state"


def test_numbers_and_seed_are_those_of_its_blocks(job, numbers):
    made = job("cam_train")
    assert made.numbers is numbers.cam["plain"]["toy"].cam_train
    assert made.seed == numbers.seed["s1"]


def test_data_is_the_prepared_folder(job):
    assert isinstance(job("cam_train").data, Prepared)
    assert [e.id for e in job("cam_train").data.split("train")] == ["a", "b"]


def test_the_key_is_of_the_stage_numbers_seed_and_inputs(job, tmp_path):
    masks = tmp_path / "masks"
    pictures.write_mask(masks / "a.png", np.zeros((2, 2), np.uint8))
    index = job("cam_train").path("prepare", "index")
    made = job("cam_train")
    key = made.key(index, masks)
    assert job("cam_train").key(index, masks) == key
    others = [
        job("cam_train", seed="s2").key(index, masks),
        job("seg_train").key(index, masks),
        made.key(index),
        made.key(masks, index),
    ]
    changed = job("cam_train")
    changed.numbers = changed.numbers.model_copy(update={"steps": 3})
    others.append(changed.key(index, masks))
    assert key not in others
    index.write_text(index.read_text() + "\n")
    assert made.key(index, masks) != key


def test_a_default_that_is_spelled_out_is_the_same_work(job):
    made, other = job("cam_train"), job("cam_train")
    assert other.numbers.fbr is None
    spelled = type(made.numbers).model_validate(
        made.numbers.model_dump(exclude_unset=True) | {"fbr": None}
    )
    assert "fbr" in spelled.model_fields_set - made.numbers.model_fields_set
    other.numbers = spelled
    assert made.asked == other.asked


def test_machine_does_not_change_the_key(job, numbers):
    made, other = job("cam_train"), job("cam_train")
    machine = numbers.machine.model_copy(update={"processes": 2, "checkpoint_minutes": 0.1})
    other.params = numbers.model_copy(update={"machine": machine})
    assert made.key() == other.key()


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_only_rank_zero_writes(job, monkeypatch, rank, first):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    assert job("cam_train").first is first


def test_a_run_that_went_on_after_a_kill_says_so(job):
    for killed, continued in ((True, False), (True, True), (False, True), (False, False)):
        with contextlib.suppress(KeyboardInterrupt), tracked(job("prepare")) as made:
            if killed:
                raise KeyboardInterrupt
        record = read_json(made.beside / "run.json")
        assert record["continued"] is continued
        assert (record["seconds"] is None) == killed
