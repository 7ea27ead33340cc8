"""Two processes compute what one does: the loop under torchrun, and a stage on the command line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fbr.files.tables import read_csv
from fbr.train.processes import Processes
from tests import checkout
from tests.pipeline import fit_together, tiny

ALONE = Processes(0, 1, torch.device("cpu"))
TRAIN = ("cam_train", "toy", "s0", "plain")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What `fit_together` leaves when torchrun starts it twice."""
    folder = tmp_path_factory.mktemp("two")
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.pipeline.fit_together", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=checkout.ROOT,
        env=checkout.environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return folder


def assert_close(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name in one:
        # Activations of a whole network differ more than its weights.
        atol = 1e-4 if name.endswith("bank.rows") else 1e-5
        assert torch.allclose(one[name].float(), two[name].float(), rtol=1e-4, atol=atol), name


@pytest.mark.parametrize("name", fit_together.CASES)
def test_two_processes_equal_one(two, tmp_path, name):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = fit_together.fit(tmp_path, ALONE, name)
    torch.set_num_threads(threads)
    together = torch.load(two / f"{name}.pt", weights_only=True)
    assert_close(alone["network"], together["network"])
    for one, other in zip(alone["history"], together["history"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    torch.manual_seed(7)
    start = fit_together.CASES[name][0]().state_dict()
    learnt = fit_together.MOVED.get(name, "running")
    moved = [(start[k] - alone["network"][k]).abs().max() for k in start if learnt in k]
    assert min(moved) > 1e-3


@pytest.mark.parametrize("name", fit_together.INTERRUPTED)
def test_two_interrupted_processes_equal_two_uninterrupted(two, name):
    resumed, whole = (
        torch.load(two / f"{file}.pt", weights_only=True) for file in (f"{name}, resumed", name)
    )
    assert all(map(torch.equal, resumed["network"].values(), whole["network"].values()))
    assert resumed["history"] == whole["history"]


def test_one_interrupted_process_with_a_full_bank_equals_one_uninterrupted(tmp_path):
    name = "plain with FBR"
    whole = fit_together.fit(tmp_path / "whole", ALONE, name)
    with pytest.raises(fit_together.Killed):
        fit_together.fit(tmp_path, ALONE, name, stop=4)
    assert list((tmp_path / name).iterdir())
    resumed = fit_together.fit(tmp_path, ALONE, name)
    assert all(map(torch.equal, resumed["network"].values(), whole["network"].values()))
    assert resumed["history"] == whole["history"]
    # 50 rows before the first step, and 3 NROIs of 8 images in each of 6: it has wrapped thrice.
    assert whole["network"]["background.bank.pushed"] > 150


# Sums over all pixels of the batch are taken in another order by two processes.
EXACT = set(fit_together.ALONE) - {"prototype"}


@pytest.mark.parametrize("name", fit_together.ALONE)
def test_two_processes_with_half_the_batch_have_the_bank_of_one(two, name):
    alone = fit_together.ALONE[name](ALONE)
    for rank in range(2):
        together = torch.load(two / f"{name}{rank}.pt", weights_only=True)
        for part in alone["bank"]:
            same = {"rtol": 0, "atol": 0} if name in EXACT else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(together["bank"][part], alone["bank"][part], **same)
        torch.testing.assert_close(together["steps"], alone["steps"], atol=1e-6, rtol=1e-6)
    pushed = [count for part, count in alone["bank"].items() if "pushed" in part]
    # 3 NROIs of 8 images in each of 5 steps are 120, some images have fewer: twice the 50 it holds.
    assert min(pushed) == 5 if name == "prototype" else min(pushed) > 100
    assert (alone["steps"][:, :4] > 0).all()


def test_one_process_with_a_broken_image_stops_both_and_the_first_says_so(two):
    order = fit_together.loop.Order(fit_together.COUNT, 0)
    ids = " ".join(f"id{order[position]}" for position in range(8))
    said = (two / "refused0").read_text()
    assert said.startswith("NotFinite: step 1: loss classification=nan, expected")
    assert f"images of that step: {ids}." in said
    assert (two / "refused1").read_text() == "SystemExit: 2"


# The same on the command line


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tiny.make(tmp_path_factory.mktemp("cli") / "prepared", train=32)
    recipe = {
        "steps": 30,
        "batch": 8,
        "optimizer": "sgd",
        "lr": 1e-4,
        "head_lr": 1e-4,
        "bfloat16": False,
    }
    edit(folder, lambda blocks: blocks["cam"]["plain"]["toy"]["cam_train"].update(recipe))
    done = checkout.engine(folder, "fbr", "prepare", "toy")
    assert done.returncode == 0, done.stderr
    return folder


def edit(folder: Path, change) -> None:
    checkout.edit(folder / "params.yaml", change)


@pytest.fixture(scope="module")
def make(prepared, tmp_path_factory):
    """A copy of the prepared checkout for this many processes."""

    def make(processes: int, checkpoint_minutes: float = 5.0) -> Path:
        folder = tmp_path_factory.mktemp("cli") / "copy"
        shutil.copytree(prepared, folder)
        machine = {"processes": processes, "checkpoint_minutes": checkpoint_minutes}
        edit(folder, lambda blocks: blocks["machine"].update(machine))
        return folder

    return make


def trained(folder: Path) -> Path:
    done = checkout.engine(folder, "fbr", *TRAIN)
    assert done.returncode == 0, done.stderr
    return folder / "results/toy/s0/plain/cam_train"


@pytest.fixture(scope="module")
def by_two(make) -> Path:
    return trained(make(2))


def test_the_stage_gives_the_same_network_with_two_processes(make, by_two):
    by_one = trained(make(1))
    assert_close(*(load_file(folder / "model.safetensors") for folder in (by_one, by_two)))
    histories = [read_csv(folder / "history.csv") for folder in (by_one, by_two)]
    assert len(histories[0]) == 10
    for one, other in zip(*histories, strict=True):
        numbers = [{name: float(value) for name, value in row.items()} for row in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
    assert (by_one / "model.json").read_bytes() == (by_two / "model.json").read_bytes()


def test_sigterm_saves_and_the_next_run_ends_in_the_same_bytes(make, by_two):
    folder = make(2, checkpoint_minutes=1e-9)
    state = folder / "results/toy/s0/plain/cam_train/state/checkpoint.pt"
    running = subprocess.Popen(
        [sys.executable, "-m", "fbr", *TRAIN],
        cwd=folder,
        env=checkout.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 600
    while not state.is_file():
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=600)
    assert running.returncode == 128 + signal.SIGTERM
    step = torch.load(state, weights_only=True)["step"]
    assert 0 < step < 30
    done = checkout.engine(folder, "fbr", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert f"cam_train continues at step {step} of 30" in done.stderr
    outputs = folder / "results/toy/s0/plain/cam_train"
    for name in ("model.safetensors", "history.csv"):
        assert (outputs / name).read_bytes() == (by_two / name).read_bytes()
    assert not state.parent.exists()


def test_a_refusal_of_the_second_process_is_one_line_and_two(make):
    folder = make(2)
    order = fit_together.loop.Order(32, 0)
    second = f"toy_{order[5]:06d}"  # the first takes positions 0 to 3 of a batch
    os.truncate(folder / "data/toy/images" / f"{second}.jpg", 300)
    done = checkout.engine(folder, "fbr", *TRAIN)
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("fbr: ")]
    assert f"the file of id '{second}'" in said
    assert "Traceback" not in done.stderr
    assert not (folder / "results/toy/s0/plain/cam_train/model.safetensors").exists()


def test_a_refusal_of_all_processes_is_one_line_and_two(make):
    folder = make(2)
    edit(folder, lambda blocks: blocks["cam"]["plain"]["toy"]["cam_train"].update(batch=7))
    done = checkout.engine(folder, "fbr", *TRAIN)
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("fbr: ")]
    assert said.startswith("fbr: batch 7 cannot be split evenly over 2 processes")
    assert "Traceback" not in done.stderr
