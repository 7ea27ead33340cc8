"""Checkpoints: whole, of this work, and free of code."""

import logging
import os

import pytest
import torch

from fbr.train import checkpoint

STATE = {"step": 3, "kept": [torch.ones(2)], "history": [{"step": 3, "loss": 0.5}], "ids": [["a"]]}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "state" / "checkpoint.pt"


def test_a_state_comes_back(file):
    checkpoint.save(file, "k", STATE)
    read = checkpoint.load(file, "k")
    assert torch.equal(read.pop("kept")[0], torch.ones(2))
    assert read == {k: v for k, v in STATE.items() if k != "kept"}


def test_there_may_be_none(file):
    assert checkpoint.load(file, "k") is None


def test_another_work_is_not_taken_and_said(file, caplog):
    checkpoint.save(file, "k", STATE)
    with caplog.at_level(logging.INFO, "fbr"):
        assert checkpoint.load(file, "other") is None
    assert "changed since the last checkpoint: training starts afresh" in caplog.text


@pytest.mark.parametrize("part", [0, 10, 500, -1])
def test_a_truncated_file_is_not_taken_and_said(file, caplog, part):
    checkpoint.save(file, "k", STATE)
    file.write_bytes(file.read_bytes()[:part])
    assert checkpoint.load(file, "k") is None
    assert "checkpoint.pt cannot be read" in caplog.text


class Code:
    """What a pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_is_not_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file.parent.mkdir()
    torch.save({"key": "k", "step": Code()}, file)
    assert checkpoint.load(file, "k") is None
    assert not (tmp_path / "ran").exists()


def test_a_new_state_replaces_the_old_one_whole(file, monkeypatch):
    checkpoint.save(file, "k", STATE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(file, "k", STATE | {"step": 4})
    assert checkpoint.load(file, "k")["step"] == 3
    assert [path.name for path in file.parent.iterdir()] == ["checkpoint.pt"]
