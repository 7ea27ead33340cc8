"""The score table: what is collected, and what each number says it is."""

import math

import pandas as pd
import pytest

from fbr.files.tables import write_csv, write_json
from fbr.show.tables import Number
from fbr.stages import report

CAM = {
    "miou": 0.4,
    "threshold": 0.3,
    "threshold_choice": "fixed",
    "miou_oracle": 0.5,
    "spill_background": 0.3,
    "threshold_oracle": 0.25,
    "split": "train",
    "images": 480,
    "scales": [1.0, 1.5],
    "flip": True,
    "crf": False,
}
SEG = {"miou": 0.6, "split": "val", "images": 120, "scales": [1.0], "flip": False, "crf": True}
WSIS = {"AP": 0.1, "AP50": 0.3, "AP75": None, "split": "val", "images": 120}


@pytest.fixture
def results(tmp_path):
    for seed, more in (("s0", 0.0), ("s1", 0.02)):
        folder = tmp_path / seed / "plain"
        write_json(folder / "cam_eval" / "metrics.json", CAM | {"miou": 0.4 + more})
    folder = tmp_path / "s0" / "plain"
    write_json(folder / "irn" / "deeplabv2" / "seg_eval" / "metrics.json", SEG)
    write_json(folder / "maskrcnn" / "wsis_eval" / "metrics.json", WSIS)
    write_json(
        folder / "crf" / "mask_eval" / "metrics.json",
        {"miou": 0.45, "background_power": 8.0, "crf": True, "split": "train", "images": 480},
    )
    write_json(folder / "other" / "metrics.json", {"miou": 0.9})
    return tmp_path


def rows(results) -> dict[str, dict[str, str]]:
    table = report.score_table(report.collect(results))
    shown = [["" if cell is None else str(cell) for cell in row] for row in table.rows]
    return {row[1]: dict(zip(table.columns, row, strict=True)) for row in shown}


def test_every_scored_stage_is_a_row_in_the_pipelines_order(results):
    assert list(rows(results)) == ["CAM", "mask", "segmentation", "instances"]
    experiments = [row["experiment"] for row in rows(results).values()]
    assert experiments == ["plain", "plain / crf", "plain / irn / deeplabv2", "plain / maskrcnn"]


def test_seeds_become_mean_and_deviation_in_percent(results):
    row = rows(results)["CAM"]
    assert row["mIoU"] == "41.0 ± 1.4"
    assert row["oracle"] == "50.0 ± 0.0"
    assert row["seeds"] == "2"


def test_activation_on_background_has_its_columns(results):
    row = rows(results)["CAM"]
    assert (row["on background"], row["on companions"]) == ("30.0 ± 0.0", "")
    assert rows(results)["segmentation"]["on background"] == ""


def test_a_share_of_nothing_is_an_empty_cell(results):
    for file in results.glob("*/plain/cam_eval/metrics.json"):
        write_json(file, CAM | {"spill_background": math.nan})
    assert rows(results)["CAM"]["on background"] == ""


def test_one_seed_has_no_deviation(results):
    row = rows(results)["segmentation"]
    assert (row["mIoU"], row["oracle"], row["seeds"]) == ("60.0", "", "1")


def test_a_number_says_what_it_is_on(results):
    found = rows(results)
    assert found["CAM"]["split"] == "train (480)"
    assert found["CAM"]["how"] == "fixed threshold 0.3, 2 scales, flip, no CRF"
    assert found["segmentation"]["how"] == "1 scale, CRF"
    assert found["mask"]["how"] == "background (1 - strongest)^8, CRF"


def test_other_ways_of_testing_are_rows_of_their_own(results):
    file = results / "s0/plain/irn/deeplabv2/seg_eval/metrics.json"
    more = {"miou": 0.65, "scales": [0.5, 1.0], "flip": True, "crf": False}
    write_json(file, SEG | {"boundary_iou": 0.3, "also": {"wide": more}})
    scores = report.collect(results)
    assert "also" not in scores
    table = report.score_table(scores[scores["stage"] == "seg_eval"])
    shown = [dict(zip(table.columns, map(str, row), strict=True)) for row in table.rows]
    names = ["plain / irn / deeplabv2", "plain / irn / deeplabv2, wide"]
    assert [row["experiment"] for row in shown] == names
    assert [row["mIoU"] for row in shown] == ["60.0", "65.0"]
    assert shown[1]["how"] == "2 scales, flip, no CRF"
    assert shown[0]["boundary"] == "30.0"


def test_a_single_seed_tells_its_interval_over_images(results):
    file = results / "s0/plain/irn/deeplabv2/seg_eval/metrics.json"
    bounds = {"miou_low": 0.581, "miou_high": 0.62}
    write_json(file, SEG | bounds)
    assert rows(results)["segmentation"]["how"] == "1 scale, CRF, 58.1 to 62.0 by images"
    for seed in ("s0", "s1"):
        write_json(results / seed / "plain/cam_eval/metrics.json", CAM | bounds)
    assert "by images" not in rows(results)["CAM"]["how"]


def test_instances_are_scored_by_ap(results):
    row = rows(results)["instances"]
    assert row["AP50"] == "30.0"
    assert row["mIoU"] == ""


def test_nothing_scored_is_an_empty_table(tmp_path):
    scores = report.collect(tmp_path)
    assert report.score_table(scores).rows == ()
    assert report.score_intro(scores) == "Nothing has been scored yet."


@pytest.mark.parametrize(
    ("values", "shown"),
    [([50.0], "50.0"), ([40.0, 60.0], "50.0 ± 14.1"), ([50.0, math.nan], "50.0"), ([], None)],
)
def test_spread(values, shown):
    found = report.spread(pd.Series(values, dtype=float))
    assert (found and str(found)) == shown
    assert found is None or isinstance(found, Number)


def test_an_intro_warns_of_a_single_seed(results):
    scores = report.collect(results)
    assert report.score_intro(scores) == "Seeds: s0, s1."
    one = scores[scores["seed"] == "s0"]
    assert report.score_intro(one).startswith("One seed (s0): no spread can be told")


def test_columns_are_aligned_on_a_terminal(results):
    lines = report.in_columns(report.score_table(report.collect(results))).splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("experiment ")
    assert set(lines[1]) == {"-", " "}
    start = lines[0].index("mIoU")
    assert lines[2][start:].startswith("41.0 ± 1.4")
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("entries", "count", "chosen"),
    [(10, 3, [0, 3, 6]), (2, 6, [0, 1]), (0, 3, []), (7, 7, list(range(7)))],
)
def test_pictures_are_spread_over_the_split(entries, count, chosen):
    assert report._spread(list(range(entries)), count) == chosen


def test_curves_and_bars_are_drawn_for_what_is_there(results):
    folder = results / "s0" / "plain"
    history = [{"step": 1, "lr": 0.1, "a": 0.5}, {"step": 2, "lr": 0.05, "a": math.nan}]
    write_csv(folder / "cam_train" / "history.csv", history)
    curve = [{"threshold": t / 10, "miou": m} for t, m in enumerate((0.1, 0.4, math.nan))]
    write_csv(folder / "cam_eval" / "curve.csv", curve)
    per_class = [
        {"id": 0, "class": "background", "iou": 0.5},
        {"id": 1, "class": "cat", "iou": math.nan},
    ]
    write_csv(folder / "cam_eval" / "per_class.csv", per_class)
    for charts in (
        report.training_curves(results),
        report.threshold_curves(results),
        report.class_bars(results),
    ):
        assert len(charts) == 1


def test_nothing_there_draws_nothing(tmp_path):
    assert report.training_curves(tmp_path) == []
    assert report.threshold_curves(tmp_path) == []
    assert report.class_bars(tmp_path) == []
