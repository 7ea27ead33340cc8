"""docs/tutorial.md, its commands run one after another on the tiny world."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess

import numpy as np
import pytest

from fbr.files import maps, pictures
from fbr.files.tables import read_json
from tests import checkout
from tests.pipeline import tiny

PAGE = (checkout.ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"(?:<!-- needs ([\w ]+) -->\n)?```sh\n(.*?)```", re.DOTALL)
# Whatever the environment has under this name, the checkout's own package is meant.
PRELUDE = """set -eo pipefail
fbr() { python -m fbr "$@"; }
mlflow() { exec python -m mlflow "$@"; }  # in the background only
"""


def commands(port: int) -> str:
    """Every block of the page whose extras are installed."""
    found = [
        block
        for needs, block in BLOCK.findall(PAGE)
        if all(importlib.util.find_spec(name) for name in needs.split())
    ]
    return PRELUDE + "\n".join(found).replace("5001", str(port))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="its requests are made with curl")
def test_the_tutorial_runs(tmp_path):
    folder = tiny.make(tmp_path / "fbr")
    log = folder / "tutorial.out"
    with log.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-c", commands(free_port())],
            cwd=folder,
            env=checkout.environment() | {"FBR_TRACK": "on", "PYTHONPATH": str(folder)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout=2700)
        finally:
            with contextlib.suppress(ProcessLookupError):  # the server, if it still is there
                os.killpg(shell.pid, signal.SIGKILL)
    assert code == 0, log.read_text()[-3000:]

    scored = folder / "results/toy/s0/plain/crf/deeplabv2/seg_eval/pred"
    for mask in scored.glob("*.png"):
        assert (folder / "predictions/masks" / mask.name).read_bytes() == mask.read_bytes()
    images = {path.stem for path in (folder / "data/toy/images").glob("*.jpg")}
    assert {p.stem for p in (folder / "predictions/overlays").iterdir()} == images
    assert {r["image_id"] for r in read_json(folder / "runs/masks.json")} <= images
    assert maps.read(folder / "maps/cams/toy_000000.npz").cam.ndim == 3
    (page,) = (folder / "reports/toy/show").iterdir()
    assert "seeds crf" in page.read_text()
    answer = pictures.read_mask(folder / "mask.png")
    mine = pictures.read_mask(folder / "predictions/masks/toy_000000.png")
    assert answer.shape == mine.shape
    assert np.mean(answer == mine) > 0.8  # one look in float32 against two in bfloat16
