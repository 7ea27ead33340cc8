"""The recorder among real processes: together on nothing, killed, out of disk, without a server."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

from fbr import track

HEAD = """
import resource, sys, time
from pathlib import Path
from fbr import track
root, *rest = sys.argv[1:]
info = track.RunInfo("cam_train", {"data": "toy", "seed": "s0"}, {"cam_train": {"lr": 0.1}})
"""
RECORD = """
with track.start(root, info, patience=300) as run:
    run.wait_id(300)
    for step in range(100):
        run.metrics({"loss": 1 / (step + 1)}, step)
    run.text("said.txt", "hello")
Path(root, f"{run.id}.done").touch()
"""


def launch(code, root, *rest, **environment):
    ours = ("MLFLOW_", "FBR_", "DVC_", "RANK")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    home = str(Path(track.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(code), str(root), *rest],
        env=clean | {"PYTHONPATH": home} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """Exit code, and what was said, of a process that has ended by itself."""
    out, err = process.communicate(timeout=1800)
    assert out == ""
    return process.returncode, err.splitlines()


def wait_for(found):
    """Poll until `found` returns something true, and return that."""
    for _ in range(4000):
        if result := found():
            return result
        time.sleep(0.02)
    pytest.fail("waited in vain")


def stored_runs(uri):
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("fbr-toy")
    return client, client.search_runs([experiment.experiment_id])


def sqlite(root):
    return f"sqlite:///{root / 'mlflow.db'}"


def assert_one_warning(lines):
    (line,) = lines
    assert line.startswith("tracking off: ")
    assert line.endswith("; the numbers are in metrics.json and history.csv")


def test_eight_processes_on_nothing(tmp_path):
    processes = [launch(RECORD, tmp_path) for _ in range(8)]
    assert [outcome(process) for process in processes] == [(0, [])] * 8
    client, runs = stored_runs(sqlite(tmp_path))
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    assert all(len(client.get_metric_history(run.info.run_id, "loss")) == 100 for run in runs)


def test_a_process_killed_while_it_makes_the_database(tmp_path):
    process = launch(RECORD, tmp_path)
    wait_for((tmp_path / "mlflow.db.partial").exists)
    process.kill()
    process.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    assert outcome(launch(RECORD, tmp_path)) == (0, [])
    _, runs = stored_runs(sqlite(tmp_path))
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_a_killed_process_resumes_its_run(tmp_path):
    train = """
    track.FLUSH_SECONDS = 0.1
    note = Path(root, "id")
    resume = note.read_text() if note.exists() else None
    with track.start(root, info, resume=resume) as run:
        note.write_text(run.wait_id(300))
        if resume is None:
            for step in range(1_000_000):
                run.metrics({"loss": 1.0}, step)
                time.sleep(0.01)
        run.metrics({"loss": 0.5}, 1_000_000)
    """
    process = launch(train, tmp_path)
    wait_for((tmp_path / "id").exists)
    run_id = wait_for((tmp_path / "id").read_text)
    client, _ = stored_runs(sqlite(tmp_path))
    wait_for(lambda: client.get_metric_history(run_id, "loss"))
    process.kill()
    process.communicate()
    assert client.get_run(run_id).info.status == "RUNNING"
    assert outcome(launch(train, tmp_path)) == (0, [])
    _, runs = stored_runs(sqlite(tmp_path))
    assert [(run.info.run_id, run.info.status) for run in runs] == [(run_id, "FINISHED")]
    steps = [point.step for point in client.get_metric_history(run_id, "loss")]
    assert steps == [*range(len(steps) - 1), 1_000_000]


def test_a_full_disk(tmp_path):
    code = """
    with track.start(root, info) as run:
        run.wait_id(300)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # every file is as good as full
        for step in range(5000):
            run.metrics({"loss": 1.0, "lr": 0.1}, step)
    """
    code_of_exit, lines = outcome(launch(code, tmp_path))
    assert code_of_exit == 0
    assert_one_warning(lines)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_server_that_goes_away(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", uri.rsplit(":", 1)[1], "--backend-store-uri", sqlite(tmp_path)]
    server = subprocess.Popen(
        [*command, "--artifacts-destination", str(tmp_path / "store")],
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=tmp_path,
    )

    def answers():
        try:
            return urllib.request.urlopen(f"{uri}/health", timeout=1).status == 200
        except OSError:
            return False

    try:
        wait_for(answers)
        assert outcome(launch(RECORD, tmp_path, MLFLOW_TRACKING_URI=uri)) == (0, [])
        client, (run,) = stored_runs(uri)
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 100
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["said.txt"]

        left_alone = """
        track.FLUSH_SECONDS = 0.1
        with track.start(root, info) as run:
            Path(root, "begun").write_text(run.wait_id(300))
            while not Path(root, "gone").exists():
                run.metrics({"loss": 1.0})
                time.sleep(0.01)
            run.text("said.txt", "hello")
        """
        orphan = launch(left_alone, tmp_path, MLFLOW_TRACKING_URI=uri)
        wait_for((tmp_path / "begun").exists)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (tmp_path / "gone").touch()
    code, lines = outcome(orphan)
    assert code == 0
    assert_one_warning(lines)
