"""Tables of published numbers: what they say, what they refuse, and what a log is told."""

import math

import pytest
import yaml

from fbr import params, published
from fbr.errors import Refusal
from fbr.workspace import PATHS, Workspace, axes_of

COLUMNS = {
    "cam": {"label": "CAM", "stage": "cam_eval", "split": "train"},
    "val": {"label": "val", "stage": "seg_eval", "split": "val", "images": 100, "tolerance": 0.5},
}
PLACE = {"data": "voc", "mask": "irn", "seg": "deeplabv2"}
ROW = {"label": "AMN", "cam": "amn", "source": "paper", "published": {"cam": 60.0, "val": 70.7}}
BLOCK = {
    "title": "Two numbers",
    "of": PLACE,
    "sources": {"paper": "Table 3"},
    "columns": COLUMNS,
    "rows": [ROW, {"label": "other", "cam": "other"}],
}
AXES = PLACE | {"seed": "s4", "cam": "amn"}
SCORE = {"miou": 0.7101, "split": "val", "images": 1449}


def table(**changed) -> published.TableBlock:
    return params.check(BLOCK | changed, published.TableBlock, "it.yaml")


@pytest.fixture
def home(tmp_path):
    """A workspace with this table."""
    (tmp_path / "workflow" / "tables").mkdir(parents=True)
    (tmp_path / "workflow" / "tables" / "it.yaml").write_text(yaml.safe_dump(BLOCK))
    return Workspace(tmp_path)


def test_a_row_tells_its_columns_or_all_that_its_path_reaches():
    both = table().rows
    assert [value for _, value in table().lines(both[0])] == [60.0, 70.7]
    assert [value for _, value in table().lines(both[1])] == [None, None]
    short = table(of={"data": "voc"}, rows=[{"label": "other", "cam": "other"}])
    assert [column.label for column, _ in short.lines(short.rows[0])] == ["CAM"]


def test_a_row_goes_before_the_table():
    block = table(rows=[{"label": "soft", "cam": "amn", "mask": "crf"}])
    assert block.axes(block.rows[0]) == PLACE | {"cam": "amn", "mask": "crf"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW | {"source": None}, "'AMN' has numbers but no source"),
        (ROW | {"source": "rumour"}, "'AMN' has numbers but no source"),
        (ROW | {"published": {"test": 70.0}}, "'AMN' has 'test', which is no column"),
        (ROW | {"row": "amn"}, "expected 'row' where there is a 'study'"),
        (ROW | {"publishd": {}}, r"unknown key 'publishd', .* mean 'published'"),
    ],
)
def test_a_row_that_says_too_much_is_refused(row, said):
    with pytest.raises(Refusal, match=f"^it.yaml: .*{said}") as caught:
        table(rows=[row])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"of": {"data": "voc"}}, "'AMN' has 'val', which its path ends before"),
        ({"columns": COLUMNS | {"x": {"label": "x", "stage": "nothing"}}}, "found stage 'nothing'"),
        ({"rows": []}, "expected 'rows' or 'study'"),
        ({"study": {"file": "a.yaml", "table": "b"}}, "expected 'row' where there is a 'study'"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(changed, said):
    with pytest.raises(Refusal, match=said):
        table(**changed)


def test_a_number_that_is_not_known_needs_no_source():
    block = table(rows=[{"label": "AMN", "cam": "amn", "published": {"val": None}}])
    assert [value for _, value in block.lines(block.rows[0])] == [None]


def test_tables_come_in_their_places(home):
    for name, place in (("b", 2), ("a", 3), ("c", 1)):
        file = home.tables / f"{name}.yaml"
        file.write_text(yaml.safe_dump(BLOCK | {"place": place}))
    assert list(published.load(home.tables)) == ["c", "b", "a", "it"]
    assert published.load(home.root / "nowhere") == {}


@pytest.mark.parametrize(
    ("measured", "said"),
    [(70.7, "within"), (71.2, "within"), (71.3, "above"), (70.2, "within"), (70.1, "below")],
)
def test_a_verdict_allows_the_tolerance(measured, said):
    assert published.verdict(table().columns["val"], measured, 70.7) == said


@pytest.mark.parametrize(
    ("score", "obtained"),
    [(SCORE, 71.01), *((({"miou": value}), None) for value in (None, math.nan, "abc")), ({}, None)],
)
def test_a_column_shows_percent(score, obtained):
    assert table().columns["val"].of(score) == pytest.approx(obtained)


def test_an_evaluation_is_told_what_to_expect(home):
    lines = published.told(home, "seg_eval", AXES, SCORE)
    assert lines == ["miou: expected 70.7 ± 0.5 (AMN, Table 3), obtained 71.0: within"]
    lines = published.told(home, "seg_eval", AXES, SCORE | {"miou": 0.65})
    assert lines[0].endswith("obtained 65.0: below")


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (SCORE | {"split": "train"}, "obtained 71.0 of train, which does not compare"),
        (SCORE | {"images": 20}, "obtained 71.0 of 20 images, which does not compare"),
        (SCORE | {"miou": None}, "obtained none"),
    ],
)
def test_what_does_not_compare_is_not_judged(home, score, said):
    (line,) = published.told(home, "seg_eval", AXES, score)
    assert line.endswith(said)


@pytest.mark.parametrize(
    ("stage", "axes"),
    [
        ("mask_eval", AXES),
        ("seg_eval", AXES | {"cam": "amn_fbr"}),
        ("seg_eval", AXES | {"mask": "crf"}),
        ("seg_eval", AXES | {"data": "toy"}),
        ("seg_eval", AXES | {"cam": "other"}),
    ],
)
def test_nothing_is_expected_of_what_nobody_published(home, stage, axes):
    assert published.told(home, stage, axes, SCORE) == []


def test_the_same_number_in_two_tables_is_told_once(home):
    again = BLOCK | {"rows": [ROW | {"label": "AMN, again"}]}
    (home.tables / "second.yaml").write_text(yaml.safe_dump(again))
    assert len(published.told(home, "cam_eval", AXES, SCORE)) == 1


def test_a_broken_table_costs_no_result(home):
    (home.tables / "it.yaml").write_text("title: [")
    (line,) = published.told(home, "seg_eval", AXES, SCORE)
    assert line.startswith("no expected values: it.yaml: not valid YAML")


def test_stages_have_the_axes_of_their_paths():
    assert axes_of("prepare") == ["data"]
    assert axes_of("seg_eval") == ["data", "seed", "cam", "mask", "seg"]
    assert axes_of("wsis_eval") == ["data", "seed", "cam", "inst"]
    for stage, files in PATHS.items():
        assert all(f"{{{axis}}}" in path for axis in axes_of(stage) for path in files.values())
