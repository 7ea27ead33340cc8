"""The page of a study: exact numbers between its markers, every other byte untouched."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fbr.errors import Refusal
from fbr.show.tables import Number
from fbr.study import pages
from fbr.study.plan import Row, Study, Table

A, B, C = (Row(name, f"+ {name}", {"cam": f"plain_{name}"}) for name in "abc")
TABLE = Table("t", "toy", ("s0", "s1", "s2"), (A, B, C), A, None, ())


def run(miou: float, seconds: float | None = 10.0, **more) -> dict:
    on = {"split": "train", "images": 24, "threshold": 0.3, "recipe": "abc"}
    return {"miou": miou, "miou_oracle": miou + 0.1, "seconds": seconds, **on, **more}


SCORES = {
    "a": {"s0": run(0.40), "s1": run(0.42), "s2": run(0.44)},
    "b": {"s0": run(0.43, miou_oracle=0.6), "s2": run(0.49, None, miou_oracle=0.62)},
    "c": {},
}


def test_rows_are_means_with_spread_and_paired_gain():
    table = pages.shown(TABLE, SCORES)
    assert table.columns == (
        *("row", "seeds", "mIoU", "oracle", "mIoU − + a", "oracle − + a", "training, s"),
    )
    a, b, c = table.rows
    assert a[:2] == ("+ a", 3)
    assert str(a[2]) == "42.0 ± 2.0"
    assert a[4] is None
    assert b[1] == 2
    assert str(b[2]) == "46.0 ± 4.2"
    assert b[4] == "+4.0 [-8.7, +16.7]"  # differences 3 and 5: t(1) = 12.706, times sd / √2 = 1
    assert b[5] == "+9.0 [-3.7, +21.7]"  # 10 and 8
    assert b[6] == Number(10.0, None, 0)
    assert c == ("+ c", "not run", None, None, None, None, None)
    assert "train (24 images), fixed threshold 0.3" in table.caption


def test_one_common_seed_has_a_difference_and_no_interval():
    scores = SCORES | {"b": {"s1": run(0.40)}, "c": {"s9": run(0.5)}}
    _, b, c = pages.shown(TABLE, scores).rows
    assert b[4] == "-2.0"
    assert c[4] is None


def test_without_a_baseline_nothing_is_compared():
    table = pages.shown(replace(TABLE, baseline=None), SCORES)
    assert table.columns == ("row", "seeds", "mIoU", "oracle", "training, s")
    assert "Student" not in table.caption


def test_thresholds_of_rows_are_said_together():
    other = run(0.5) | {"threshold": 0.45}
    elsewhere = run(0.5) | {"split": "val", "images": 7}
    table = pages.shown(TABLE, SCORES | {"b": {"s0": other}, "c": {"s0": elsewhere}})
    said = "train (24 images), fixed threshold 0.3, 0.45; val (7 images), fixed threshold 0.3. "
    assert said in table.caption


def test_a_row_is_compared_with_its_own_base_too():
    rows = (A, B, replace(C, against="b"))
    scores = SCORES | {"c": {"s0": run(0.42), "s2": run(0.46)}}
    table = pages.shown(replace(TABLE, rows=rows), scores)
    assert table.columns[4:7] == ("mIoU − + a", "oracle − + a", "mIoU − own base")
    assert [row[6] for row in table.rows[:2]] == [None, None]
    assert table.rows[2][6] == "-2.0 [-14.7, +10.7]"  # differences -1 and -3
    assert "the row that it builds on" in table.caption


def test_spill_is_shown_where_it_was_measured():
    silent = run(0.4, spill_background=None)  # no activation at all
    spilt = SCORES | {"c": {"s0": run(0.4, spill_background=0.5), "s1": silent}}
    table = pages.shown(TABLE, spilt)
    assert table.columns[4] == "on background"
    assert "on companions" not in table.columns
    assert [str(row[4]) for row in table.rows] == ["None", "None", "50.0"]


def test_an_interval_over_images_is_no_split():
    runs = SCORES["a"] | {"s0": run(0.4, miou_low=0.3, miou_high=0.5, miou_val=0.2)}
    table = pages.shown(TABLE, SCORES | {"a": runs})
    assert table.columns[4:6] == ("mIoU, val", "mIoU − + a")


def test_a_further_split_has_an_oracle_where_it_was_swept(tmp_path):
    runs = {"s0": run(0.4, miou_val=0.2, miou_oracle_val=0.25)}
    table = pages.shown(TABLE, SCORES | {"a": runs})
    assert table.columns[4:6] == ("mIoU, val", "oracle, val")
    assert [str(cell) for cell in table.rows[0][4:6]] == ["20.0", "25.0"]
    row = pages.singles((TABLE,), {"t": SCORES | {"a": runs}})[0]
    assert row["miou_oracle_val"] == 0.25


def test_predictions_have_boundaries_and_ways_and_what_all_stages_took(tmp_path):
    row = Row("a", "A", {"cam": "plain", "mask": "crf", "seg": "deeplabv2"})
    table = Table("t", "toy", ("s0",), (row,), None, None, ())
    on = {"split": "val", "images": 12, "scales": [0.5, 1.0], "flip": True, "crf": True}
    score = {"miou": 0.5, "boundary_iou": 0.3, "fp": 0.2, "fn": 0.1, "seconds": 90.0} | on
    score["recipe"] = "abc"
    found = {"a": {"s0": score | {"miou_single": 0.4}}}
    shown = pages.shown(table, found)
    assert shown.columns == (
        *("row", "seeds", "mIoU", "boundary", "over", "under", "mIoU, single", "all stages, s"),
    )
    assert [str(cell) for cell in shown.rows[0][2:]] == [
        "50.0",
        "30.0",
        "20.0",
        "10.0",
        "40.0",
        "90",
    ]
    assert "val (12 images), scales 0.5, 1, flip, CRF." in shown.caption
    (single,) = pages.singles([table], {"t": found})
    assert single["variant"] == "plain/crf/deeplabv2"
    assert (single["boundary_iou"], single["fp"], single["miou_single"]) == (0.3, 0.2, 0.4)


def test_nothing_run_is_a_table_too():
    table = pages.shown(TABLE, {"a": {}, "b": {}, "c": {}})
    assert [row[1] for row in table.rows] == ["not run"] * 3
    assert "nothing run yet" in table.caption


PAGE = (
    "# Été\n\n<!-- study:t -->\nold\n<!-- /study -->\nwords <!-- study:u -->\n<!-- /study -->\nend"
)


def test_only_what_is_between_markers_changes():
    parts = {"t": "| T |\n", "u": "\\1 | U |\n"}
    once = pages.filled(PAGE, parts, Path("p.md"))
    assert once == (
        "# Été\n\n<!-- study:t -->\n\n| T |\n\n<!-- /study -->\nwords "
        "<!-- study:u -->\n\n\\1 | U |\n\n<!-- /study -->\nend"
    )
    assert pages.filled(once, parts, Path("p.md")) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found 0 markers <!-- study:table -->"),
        ("<!-- study:tabel -->\n<!-- /study -->", "marker of table 'tabel'.*'table'"),
        ("<!-- study:table -->\n<!-- /study -->\n" * 2, "found 2 markers"),
        ("<!-- study:table -->\n", "do not pair up"),
        ("<!-- study:table --><!-- /study -->", "do not pair up"),
        ("<!-- /study -->\n<!-- study:table -->\n", "do not pair up"),
        ("<!-- study:table -->\n<!-- /study -->\n<!-- /study -->", "do not pair up"),
    ],
)
def test_markers_that_are_wrong_are_refused(text, said):
    with pytest.raises(Refusal, match=f"p.md: .*{said}"):
        pages.filled(text, {"table": ""}, Path("p.md"))


def test_markers_inside_markers_are_refused():
    text = "<!-- study:a -->\n<!-- study:b -->\n<!-- /study -->\n<!-- /study -->"
    with pytest.raises(Refusal, match="do not pair up"):
        pages.filled(text, {"a": "", "b": ""}, Path("p.md"))


def test_a_page_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refusal, match="not found; write it, with a line <!-- study:t -->"):
        pages.check(tmp_path / "p.md", Study("x", Path("p.md"), {}, (TABLE,)))


def test_a_sweep_brings_a_chart_and_every_run_is_listed(tmp_path):
    table = replace(TABLE, swept="cam_train.lr", sweep=(B, C))
    page = tmp_path / "docs" / "p.md"
    page.parent.mkdir()
    page.write_text("<!-- study:t -->\n<!-- /study -->\n")
    study = Study("x", Path("docs/p.md"), {}, (table,))
    pages.write(page, study, {"t": SCORES})
    text = page.read_text()
    assert "| cam\\_train.lr | seeds |" in text
    assert "![mIoU over cam_train.lr](x-runs/t.svg)" in text
    chart = (tmp_path / "docs/x-runs/t.svg").read_text()
    assert re.findall(r"<title>(\+ .*?)</title>", chart) == ["+ b: 46.0 ± 4.2"]
    with open(tmp_path / "docs/x-runs/runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert rows[3] == {
        "table": "t",
        "row": "b",
        "variant": "plain_b",
        "seed": "s0",
        "recipe": "abc",
        "on": "train (24 images), fixed threshold 0.3",
        "miou": "0.43",
        "miou_oracle": "0.6",
        "spill_background": "",
        "spill_companions": "",
        "seconds": "10.0",
    }
    pages.write(page, study, {"t": SCORES})
    assert page.read_text() == text
