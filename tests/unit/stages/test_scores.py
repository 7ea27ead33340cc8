"""Scores told the same way everywhere."""

import logging
import math

from fbr.stages.scores import announce, named


class Run:
    def __init__(self) -> None:
        self.said = {}

    def metrics(self, numbers) -> None:
        self.said["metrics"] = numbers

    def table(self, name, rows) -> None:
        self.said[name] = rows


class Job:
    stage = "cam_eval"

    def __init__(self) -> None:
        self.run = Run()


def test_rows_get_the_id_and_name_of_their_class():
    rows = named([{"iou": 0.5}, {"iou": math.nan}], ["background", "cat"])
    assert [(row["id"], row["class"]) for row in rows] == [(0, "background"), (1, "cat")]
    assert rows[0] == {"id": 0, "class": "background", "iou": 0.5}


def test_the_tracking_run_gets_finite_numbers_and_the_log_everything(caplog):
    job = Job()
    metrics = {"miou": 0.51234, "iou": math.nan, "images": 3, "flip": True, "split": "val"}
    with caplog.at_level(logging.INFO, "fbr"):
        announce(job, metrics, [{"class": "cat"}])
    assert job.run.said == {
        "metrics": {"miou": 0.51234, "images": 3},
        "per_class": [{"class": "cat"}],
    }
    assert caplog.messages == ["cam_eval: miou 0.5123, iou nan, images 3, flip True, split val"]
