"""Checkouts with toy commands: a fresh one, and one in which everything has run."""

import shutil
from pathlib import Path

import pytest

from tests import checkout


@pytest.fixture
def fresh(tmp_path) -> Path:
    return checkout.make(tmp_path / "fresh")


@pytest.fixture(scope="session")
def _finished(tmp_path_factory) -> Path:
    folder = checkout.make(tmp_path_factory.mktemp("toy") / "finished")
    done = checkout.engine(folder, "snakemake", "--cores", "8", "all")
    assert done.returncode == 0, done.stderr
    synced = checkout.engine(folder, "fbr", "sync")
    assert synced.returncode == 0, synced.stderr
    (folder / "synced").write_text(synced.stdout)
    checkout.trace(folder)
    return folder


@pytest.fixture
def finished(_finished, tmp_path) -> Path:
    """A checkout in which Snakemake ran `all` and DVC was told so by `fbr sync`."""
    return Path(shutil.copytree(_finished, tmp_path / "finished"))
