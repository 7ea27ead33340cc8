"""Scores told the same way everywhere."""

import logging
import math
from typing import ClassVar

import yaml

from fbr.stages.scores import announce, named
from fbr.workspace import Workspace


class Run:
    def __init__(self) -> None:
        self.said = {}

    def metrics(self, numbers) -> None:
        self.said["metrics"] = numbers

    def table(self, name, rows) -> None:
        self.said[name] = rows


class Job:
    stage = "cam_eval"
    axes: ClassVar = {"data": "toy", "seed": "s0", "cam": "plain"}

    def __init__(self, root) -> None:
        self.run = Run()
        self.workspace = Workspace(root)


def test_rows_get_the_id_and_name_of_their_class():
    rows = named([{"iou": 0.5}, {"iou": math.nan}], ["background", "cat"])
    assert [(row["id"], row["class"]) for row in rows] == [(0, "background"), (1, "cat")]
    assert rows[0] == {"id": 0, "class": "background", "iou": 0.5}


def test_the_tracking_run_gets_finite_numbers_and_the_log_everything(tmp_path, caplog):
    job = Job(tmp_path)
    metrics = {"miou": 0.51234, "iou": math.nan, "images": 3, "flip": True, "split": "val"}
    with caplog.at_level(logging.INFO, "fbr"):
        announce(job, metrics, [{"class": "cat"}])
    assert job.run.said == {
        "metrics": {"miou": 0.51234, "images": 3},
        "per_class": [{"class": "cat"}],
    }
    assert caplog.messages == ["cam_eval: miou 0.5123, iou nan, images 3, flip True, split val"]


def test_the_log_sets_what_was_obtained_beside_what_was_expected(tmp_path, caplog):
    folder = tmp_path / "workflow" / "tables"
    folder.mkdir(parents=True)
    row = {"label": "plain", "cam": "plain", "source": "us", "published": {"cam": 46.1}}
    block = {
        "title": "Toy",
        "of": {"data": "toy"},
        "sources": {"us": "README"},
        "columns": {"cam": {"label": "CAM", "stage": "cam_eval", "tolerance": 3.0}},
        "rows": [row],
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(block))
    with caplog.at_level(logging.INFO, "fbr"):
        announce(Job(tmp_path), {"miou": 0.42}, [])
    assert caplog.messages == [
        "cam_eval: miou 0.42",
        "cam_eval: miou: expected 46.1 ± 3 (plain, README), obtained 42.0: below",
    ]
