"""The stored model behind `mlflow models serve`: a real request over HTTP, answered with a mask."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from fbr import track
from fbr.files import pictures
from fbr.nets.heads import FullSize
from fbr.nets.photographs import Photographs
from fbr.stages import networks
from tests import checkout, untrained

pytest.importorskip("mlflow")


@pytest.fixture
def network(tmp_path):
    model = untrained.write(tmp_path / "net", "seg_train")
    return Photographs(FullSize(networks.load(model, torch.device("cpu"))[0])).eval()


@pytest.fixture
def address(tmp_path, network, monkeypatch):
    """A server of the network's stored model, on this machine only."""
    for name in ("MLFLOW_TRACKING_URI", "FBR_TRACK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    info = track.RunInfo("seg_train", {"data": "toy"})
    with track.start(tmp_path, info) as run:
        run.segmentation_model(network, untrained.CLASSES, pictures.PALETTE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["models", "serve", "-m", f"runs:/{run.id}/segmentation", "--env-manager", "local"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, *place],
        env=checkout.environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait(f"http://127.0.0.1:{port}/ping", server, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def wait(ping: str, server: subprocess.Popen, log) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(ping, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer:\n{log.read_text()}")


def ask(address: str, *images: object) -> list[dict]:
    rows = json.dumps({"dataframe_records": [{"image": image} for image in images]})
    request = urllib.request.Request(
        address, rows.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["predictions"]


def test_a_request_is_answered_with_masks(address, network):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 56), (33, 70))]
    content = io.BytesIO()
    Image.fromarray(images[0]).save(content, format="PNG")
    png, array = ask(address, base64.b64encode(content.getvalue()).decode(), images[1].tolist())
    with torch.no_grad():
        masks = [network(torch.from_numpy(i)[None])[0].argmax(0).byte().numpy() for i in images]
    with Image.open(io.BytesIO(base64.b64decode(png["mask"]))) as picture:
        assert np.array_equal(np.array(picture), masks[0])
    assert np.array_equal(array["mask"], masks[1])
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, "no image")
    assert refused.value.code == 400
    assert "found text that is no image" in json.load(refused.value)["message"]
