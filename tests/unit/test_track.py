"""The recorder: what it stores in MLflow, and that nothing it meets can hurt the work."""

import base64
import io
import json
import os
import socket
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fbr import track
from fbr.files import pictures
from fbr.nets.photographs import Photographs

AXES = {"data": "toy", "seed": "s0", "cam": "plain"}
INFO = track.RunInfo("cam_train", AXES, {"cam_train": {"lr": 0.1, "scales": [1, 2]}})
NAMES = ["background", "boat", "car", "dog", "sheep"]
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("work space")


class Store:
    """MLflow's client for the runs under a root, opened late so that `track` makes the tables."""

    def __init__(self, root):
        self.uri = f"sqlite:///{root / 'mlflow.db'}"

    def __getattr__(self, name):
        import mlflow

        return getattr(mlflow.MlflowClient(self.uri), name)


@pytest.fixture
def client(root):
    return Store(root)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "FBR_TRACK", "FBR_ENGINE", "DVC_STAGE", "RANK"):
        monkeypatch.delenv(name, raising=False)


def warnings(capfd):
    out, err = capfd.readouterr()
    assert out == ""
    return err.splitlines()


def record_everything(run, folder):
    """Call every method that fills the queue, as a stage does."""
    note = folder / "note.log"
    note.write_text("one\n")
    for step in range(50):
        run.metrics({"loss": 1.0 / (step + 1)}, step)
    run.table("per_class", [{"class": "boat", "iou": 0.5}])
    run.image("overlays/a", np.zeros((4, 5, 3), np.uint8))
    run.file(note)
    run.text("said.txt", "hello")


def test_everything_is_stored_and_nothing_is_printed(root, client, tmp_path, capfd):
    with track.start(root, INFO) as run:
        record_everything(run, tmp_path)
    stored = client.get_run(run.id)
    assert warnings(capfd) == []
    assert client.get_experiment(stored.info.experiment_id).name == "fbr-toy"
    assert stored.info.run_name == "cam_train toy/s0/plain"
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"cam_train.lr": "0.1", "cam_train.scales": "[1, 2]"}
    assert [(p.step, p.value) for p in client.get_metric_history(run.id, "loss")] == [
        (step, 1.0 / (step + 1)) for step in range(50)
    ]
    assert stored.data.metrics["system/system_memory_usage_percentage"] > 0
    assert {f.path for f in client.list_artifacts(run.id)} == {
        "note.log",
        "overlays",
        "per_class.json",
        "said.txt",
    }
    assert [f.path for f in client.list_artifacts(run.id, "overlays")] == ["overlays/a.png"]
    assert (root / "mlruns" / "fbr-toy" / run.id / "artifacts" / "said.txt").read_text() == "hello"


def test_what_is_not_a_number_can_be_stored(root, client, capfd):
    nan = float("nan")
    with track.start(root, INFO) as run:
        run.metrics({"iou/boat": nan, "gap": float("inf")})
        run.table("per_class", [{"class": "boat", "iou": nan}])
        run.table("empty", [])
    assert warnings(capfd) == []
    assert np.isnan(client.get_run(run.id).data.metrics["iou/boat"])
    stored = root / "mlruns" / "fbr-toy" / run.id / "artifacts"
    assert json.loads((stored / "per_class.json").read_text())["data"] == [["boat", None]]
    assert json.loads((stored / "empty.json").read_text()) == {"columns": [], "data": []}


def test_tags_name_the_stage_and_each_axis(root, client, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "cam_train@toy")
    with track.start(root, track.RunInfo("cam_train", AXES, tags={"upstream_runs": "ab"})) as run:
        pass
    tags = client.get_run(run.id).data.tags
    expected = {**AXES, "stage": "cam_train", "engine": "dvc", "upstream_runs": "ab"}
    assert tags.items() >= expected.items()
    assert {"git_commit", "git_dirty"} <= tags.keys()


def test_more_values_than_one_call_may_carry(root, client):
    params = {f"p{i}": i for i in range(250)} | {"long": "x" * 10_000}
    with track.start(root, track.RunInfo("cam_train", AXES, params)) as run:
        for step in range(700):
            run.metrics({"a": step, "b": -step}, step)
    stored = client.get_run(run.id).data.params
    assert len(stored) == 251
    assert stored["long"] == "x" * 6000
    assert [p.value for p in client.get_metric_history(run.id, "b")] == [-s for s in range(700)]


def test_names_that_mlflow_refuses_are_changed(root, client, capfd):
    with track.start(root, track.RunInfo("cam_eval", AXES, {"child's": 1})) as run:
        run.metrics({"iou/child's seat (red)": 0.5})
    assert warnings(capfd) == []
    stored = client.get_run(run.id).data
    assert stored.metrics["iou/child_s seat _red_"] == 0.5
    assert stored.params == {"child_s": "1"}


@pytest.mark.parametrize(
    ("problem", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "FAILED")],
)
def test_an_exception_passes_through_and_is_recorded(root, client, problem, status):
    with pytest.raises(problem), track.start(root, INFO) as run:
        raise problem
    assert client.get_run(run.id).info.status == status


def test_a_resumed_run_continues(root, client, tmp_path):
    with track.start(root, INFO) as run:
        run.metrics({"loss": 2.0}, 0)
        run.table("per_class", [{"iou": 0.1}])
    changed = track.RunInfo("cam_train", AXES, {"cam_train": {"lr": 0.2, "new": 3}})
    again = track.start(root, changed, resume=run.id)
    assert again.wait_id(30) == run.id
    assert client.get_run(run.id).info.status == "RUNNING"
    again.metrics({"loss": 1.0}, 1)
    again.table("per_class", [{"iou": 0.2}])
    again.finish()
    stored = client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert [p.value for p in client.get_metric_history(run.id, "loss")] == [2.0, 1.0]
    assert stored.data.params["cam_train.lr"] == "0.1"  # MLflow keeps the first value
    assert stored.data.params["cam_train.new"] == "3"
    table = json.loads((root / "mlruns/fbr-toy" / run.id / "artifacts/per_class.json").read_text())
    assert table == {"columns": ["iou"], "data": [[0.2]]}


@pytest.mark.parametrize("kind", ["unknown", "deleted", "of another experiment"])
def test_a_run_that_cannot_be_resumed_starts_anew(root, client, capfd, kind):
    other = track.RunInfo("cam_train", AXES | {"data": "other"})
    with track.start(root, other if kind == "of another experiment" else INFO) as run:
        pass
    if kind == "deleted":
        client.delete_run(run.id)
    with track.start(root, INFO, resume="0" * 32 if kind == "unknown" else run.id) as again:
        pass
    assert again.id not in (None, run.id)
    assert warnings(capfd) == []


@pytest.mark.parametrize(("name", "value"), [("FBR_TRACK", "off"), ("RANK", "1")])
def test_switched_off_without_a_word(tmp_path, capfd, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with track.start(tmp_path, INFO) as run:
        record_everything(run, tmp_path)
        assert run.wait_id(30) is None
    assert warnings(capfd) == []
    assert not (tmp_path / "mlflow.db").exists()


def no_mlflow(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)


def dead_server(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def wrong_address(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-scheme://somewhere")


def not_a_database(root, monkeypatch):
    (root / "mlflow.db").write_text("these are no tables" * 100)


def no_folder_to_write_to(root, monkeypatch):
    (root / ".fbr").write_text("")  # a plain file where the lock's folder should be


@pytest.mark.parametrize(
    "spoil", [no_mlflow, dead_server, wrong_address, not_a_database, no_folder_to_write_to]
)
def test_a_failure_gives_one_warning_and_the_work_goes_on(tmp_path, capfd, monkeypatch, spoil):
    spoil(tmp_path, monkeypatch)
    with track.start(tmp_path, INFO) as run:
        record_everything(run, tmp_path)
        assert run.wait_id(30) is None
        record_everything(run, tmp_path)
    (line,) = warnings(capfd)
    assert line.startswith("tracking off: ")
    assert line.endswith("; the numbers are in metrics.json and history.csv")


def test_a_failure_on_the_way_gives_one_warning(root, tmp_path, capfd):
    with track.start(root, INFO) as run:
        run.file(tmp_path / "never written")
        record_everything(run, tmp_path)
    (line,) = warnings(capfd)
    assert "never written" in line


def test_a_silent_server_costs_no_more_than_the_patience(tmp_path, capfd, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        with track.start(tmp_path, INFO, patience=0.2) as run:
            record_everything(run, tmp_path)
        run.finish("FAILED")
    (line,) = warnings(capfd)
    assert line.startswith("tracking off: no answer from the store within 0.2 s;")


def test_a_half_made_database_is_made_again(tmp_path, capfd):
    for name in ("mlflow.db.partial", "mlflow.db.partial-journal"):
        (tmp_path / name).write_text("cut short")
    with track.start(tmp_path, INFO) as run:
        pass
    assert run.id
    assert warnings(capfd) == []
    assert [p.name for p in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_fork_waits_for_the_import(tmp_path, monkeypatch):
    """A child forked inside an import would inherit its lock and hang at its own import."""
    (tmp_path / "mlflow.py").write_text(
        textwrap.dedent("""
            import threading, time
            begun = threading.Event(); begun.set()
            time.sleep(0.5)
            done = True
        """)
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    for thread in threading.enumerate():
        if thread.name == "track":  # of an earlier test, whose end would pass for this one's
            thread.join(30)
    run = track.start(tmp_path, INFO)
    while not hasattr(sys.modules.get("mlflow"), "begun"):
        pass
    if (child := os.fork()) == 0:
        os._exit(0 if hasattr(sys.modules["mlflow"], "done") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run.finish()


def test_git_state(tmp_path):
    assert track.git_state(tmp_path / "nowhere") == {
        "git_commit": "unknown",
        "git_dirty": "unknown",
    }
    git = "git -c user.name=a -c user.email=a@b -C"
    (tmp_path / "file").write_text("one")
    assert os.system(f"cd {tmp_path} && git init -q && git add file") == 0
    assert os.system(f"{git} {tmp_path} commit -qm first") == 0
    state = track.git_state(tmp_path)
    assert len(state["git_commit"]) == 40
    assert state["git_dirty"] == "false"
    (tmp_path / "untracked").write_text("one")
    assert track.git_state(tmp_path) == state
    (tmp_path / "file").write_text("two")
    assert track.git_state(tmp_path) == state | {"git_dirty": "true"}


def test_engine(monkeypatch):
    assert track.engine() == "shell"
    monkeypatch.setenv("DVC_STAGE", "prepare@toy")
    assert track.engine() == "dvc"
    monkeypatch.setenv("FBR_ENGINE", "snakemake")
    assert track.engine() == "snakemake"


class Net(nn.Module):
    """DeepLab in small: stride 4, dilated branches, a pooled branch, output at input size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=d, dilation=d) for d in (1, 3))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        self.head = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 5, 1))

    def forward(self, images):
        features = self.stem(images)
        pooled = F.interpolate(self.pooled(features), features.shape[-2:], mode="bilinear")
        logits = self.head(torch.cat([b(features) for b in self.branches] + [pooled], 1))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear")


class FixedSize(Net):
    """A network whose decoder doubles sizes blindly, so that odd ones do not come back."""

    def forward(self, images):
        return F.interpolate(self.stem(images), scale_factor=4, mode="bilinear")


def stored_models(client, run):
    return [
        client.get_logged_model(m.model_id) for m in client.get_run(run.id).outputs.model_outputs
    ]


@pytest.fixture(scope="module")
def stored(root):
    """A network, and the folder of the MLflow model that was made of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "FBR_TRACK", "RANK"):
            patch.delenv(name, raising=False)
        torch.manual_seed(0)
        net = Photographs(Net())
        with track.start(root, INFO) as run:
            run.segmentation_model(net, NAMES, pictures.PALETTE)
        assert net.training  # the stage's own network is left as it was
        (model,) = stored_models(Store(root), run)
        assert model.status == "READY"
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        yield net.eval(), Path(model.artifact_location)


def random_images(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def encoded(image, **options):
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG", **options)
    return base64.b64encode(content.getvalue()).decode()


def test_the_stored_model_takes_images_of_any_size(stored):
    net, folder = stored
    assert not [f for f in folder.rglob("*") if f.suffix in (".pkl", ".pth", ".pickle")]
    import mlflow

    loaded = mlflow.pytorch.load_model(str(folder / "artifacts" / "network"))
    for size in ((1, 64, 64, 3), (2, 57, 91, 3), (1, 33, 40, 3), (3, 96, 61, 3)):
        images = torch.randint(0, 256, size, dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), net(images))


def test_the_served_model_gives_masks_of_the_kind_that_it_is_asked_in(stored):
    import mlflow

    net, folder = stored
    served = mlflow.pyfunc.load_model(str(folder))
    images = random_images((40, 56), (33, 70), (16, 24))
    asked = pd.DataFrame({"image": [images[0].tolist(), encoded(images[1]), encoded(images[2])]})
    array, *pngs = served.predict(asked)
    with torch.no_grad():
        masks = [net(torch.from_numpy(i)[None])[0].argmax(0).byte().numpy() for i in images]
    assert np.array_equal(array["mask"], masks[0])
    for answer, mask in zip(pngs, masks[1:], strict=True):
        with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.array(picture), mask)
            palette = bytes(picture.getpalette())
            assert palette == pictures.PALETTE[: len(palette)]
    for answer, mask in zip([array, *pngs], masks, strict=True):
        assert answer["classes"] == {str(i): NAMES[i] for i in range(1, 5) if (mask == i).any()}
    assert any(len(np.unique(mask)) > 1 for mask in masks)


def test_the_served_model_sees_photographs_upright(stored):
    import mlflow

    served = mlflow.pyfunc.load_model(str(stored[1]))
    (image,) = random_images((40, 56))
    on_its_side = Image.Exif()
    on_its_side[pictures.ORIENTATION] = 6
    asked = [encoded(image), encoded(np.rot90(image), exif=on_its_side)]
    upright, turned = served.predict(pd.DataFrame({"image": asked}))
    assert turned == upright


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"image": ["no image"]}, "found text that is no image"),
        ({"image": [base64.b64encode(b"no image").decode()]}, "found text that is no image"),
        ({"image": [[[1, 2], [3, 4]]]}, r"found an array of shape \(2, 2\)"),
        ({"image": [[[[1, 2, 3]], [[1, 2]]]]}, "rows of different lengths"),
        ({"image": [[[[1, 2, 256]]]]}, "whole numbers of 0 to 255"),
        ({"image": [[[[0.5, 0.5, 0.5]]]]}, "whole numbers of 0 to 255"),
        ({"picture": ["?"]}, "image"),
    ],
)
def test_the_served_model_says_what_is_wrong(stored, rows, said):
    import mlflow

    served = mlflow.pyfunc.load_model(str(stored[1]))
    with pytest.raises(mlflow.exceptions.MlflowException, match=said) as refused:
        served.predict(pd.DataFrame(rows))
    assert refused.value.get_http_status_code() == 400


def test_a_network_that_cannot_be_exported_is_only_a_warning(root, client, capfd):
    with track.start(root, INFO) as run:
        run.segmentation_model(Photographs(FixedSize()), NAMES, pictures.PALETTE)
        run.metrics({"loss": 1.0})
    (line,) = warnings(capfd)
    assert line.startswith("model not recorded: ")
    assert client.get_run(run.id).info.status == "FINISHED"
    assert stored_models(client, run) == []
