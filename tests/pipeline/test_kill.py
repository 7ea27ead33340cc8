"""kill -9 of a whole engine while it writes, trains and infers: run again, it ends the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests import checkout, untrained
from tests.pipeline import tiny

IMAGES, STEPS = 240, 160  # enough for every kill to come in the middle
STAGES = ("prepare", "cam_train", "cam_infer", "cam_eval")
PLAIN = "results/toy/s0/plain"
COMMANDS = {
    "snakemake": ("snakemake", "--cores", "all", f"{PLAIN}/cam_eval/metrics.json"),
    "dvc": ("dvc", "repro", "cam_eval@toy-s0-plain"),
}
LOGS = {"snakemake": "logs/toy/s0/plain/{}.log", "dvc": "dvc.out"}


def world(folder: Path, **cam_train: int) -> Path:
    """A checkout whose training saves its state as often as it can."""

    def change(blocks: dict) -> None:
        blocks["machine"]["checkpoint_minutes"] = 1e-6
        blocks["cam"]["plain"]["toy"]["cam_train"].update({"steps": STEPS} | cam_train)

    tiny.make(folder, train=IMAGES)
    checkout.edit(folder / "params.yaml", change)
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    folder = world(tmp_path_factory.mktemp("kill") / "undisturbed")
    tiny.Running(folder, *COMMANDS["snakemake"]).done()
    return folder


@pytest.mark.parametrize("engine", COMMANDS)
def test_killed_in_a_write_a_training_and_an_inference(engine, undisturbed, tmp_path):
    folder = world(tmp_path / engine)
    training, inference = folder / PLAIN / "cam_train", folder / PLAIN / "cam_infer"

    def run() -> tiny.Running:
        return tiny.Running(folder, *COMMANDS[engine])

    def said(stage: str) -> str:
        return (folder / LOGS[engine].format(stage)).read_text()

    run().kill_when(lambda: len(list(folder.glob("data/toy/images.partial/*.jpg"))) > 20)
    assert not (folder / "data/toy/index.csv").exists()
    assert not (folder / "data/toy/images").exists()

    run().kill_when(replaced(training / "state/checkpoint.pt"))
    assert not (training / "model.safetensors").exists()
    # What a kill leaves behind when it comes some milliseconds sooner or later.
    (training / "state/checkpoint.pt.partial").write_bytes(b"half")
    (training / "model.safetensors.partial").write_bytes(b"half")

    run().kill_when(lambda: len(list(inference.glob("cams.partial/*.npz"))) > 60)
    step = int(re.search(rf"continues at step (\d+) of {STEPS}", said("cam_train"))[1])
    assert 1 < step < STEPS
    left = IMAGES - len(list(inference.glob("cams.partial/*.npz")))
    assert 0 < left < IMAGES
    assert not (inference / "cams").exists()
    (inference / f"cams.partial/toy_{IMAGES - 1:06d}.npz.partial").write_bytes(b"half")

    run().done()
    assert f"{left} of {IMAGES} images to do" in said("cam_infer")
    odd = tiny.differing(tiny.content(undisturbed, *STAGES), tiny.content(folder, *STAGES))
    assert not odd
    assert not [*folder.rglob("*.partial"), *folder.rglob("state")]


def replaced(file: Path):
    """Tell whether a file has been replaced since it was first seen."""
    seen = set()

    def told() -> bool:
        if file.exists():
            seen.add(file.stat().st_mtime_ns)
        return len(seen) > 1

    return told


def test_a_killed_training_goes_on_in_its_tracking_run(undisturbed, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    folder = world(tmp_path / "tracked", steps=600, batch=2, crop=32, log_every=10)
    shutil.copytree(undisturbed / "data", folder / "data")
    record = folder / PLAIN / "cam_train/run.json"

    def run() -> tiny.Running:
        return tiny.Running(folder, "fbr", "cam_train", "toy", "s0", "plain", track="on")

    run().kill_when(lambda: record.is_file() and json.loads(record.read_text())["mlflow_run"])
    assert "continues at step" in run().done()
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fbr-toy")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.run_id == json.loads(record.read_text())["mlflow_run"]
    assert stored.info.status == "FINISHED"
    points = client.get_metric_history(stored.info.run_id, "classification")
    assert max(point.step for point in points) == 600


def test_a_killed_prediction_goes_on(tmp_path):
    untrained.write(tmp_path / "net", "seg_train")
    (image,) = untrained.photographs(tmp_path / "photographs", (160, 240))
    for number in range(IMAGES - 1):
        shutil.copy(image, image.with_name(f"{number}.png"))
    masks = tmp_path / "predictions/masks"

    def run() -> tiny.Running:
        return tiny.Running(tmp_path, "fbr", "predict", "net", "photographs")

    run().kill_when(lambda: len(list(masks.glob("*.png"))) > 20)
    done = {path: path.stat().st_mtime_ns for path in masks.glob("*.png")}
    assert 20 < len(done) < IMAGES
    (masks / "0.png.partial").write_bytes(b"half")
    assert f"{IMAGES - len(done)} of {IMAGES} images to do" in run().done()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len({path.read_bytes() for path in masks.iterdir()}) == 1  # of one image, and all whole
    assert len(list(masks.iterdir())) == IMAGES
