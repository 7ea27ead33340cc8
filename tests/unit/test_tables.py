"""Measured beside published, from metrics.json files that nobody trained for."""

import shutil

import pytest
import yaml

from fbr import tables, track
from fbr.cli import main
from fbr.errors import Refusal
from fbr.files.atomic import write_text
from fbr.files.tables import write_json
from fbr.stages.job import Job
from fbr.workspace import Workspace, axes_of
from tests import checkout

AXES = {"data": "voc", "cam": "amn", "mask": "irn", "seg": "deeplabv2"}
VOC = {
    "title": "Masks & val",
    "of": {"data": "voc", "mask": "irn", "seg": "deeplabv2"},
    "sources": {"paper": "Table 3"},
    "columns": {
        "mask": {"label": "masks", "stage": "mask_eval", "split": "train"},
        "val": {"label": "val", "stage": "seg_eval", "split": "val", "images": 1449},
    },
    "rows": [
        {"label": "AMN", "cam": "amn", "source": "paper", "published": {"mask": 72.2, "val": 70.7}},
        {"label": "new", "cam": "not_there_yet", "published": {"mask": None, "val": None}},
    ],
}
COST = {
    "title": "Cost",
    "of": {"data": "voc"},
    "columns": {
        "hours": {
            "label": "h",
            "stage": ["cam_train", "amn_train"],
            "metric": "seconds",
            "times": 1 / 3600,
        }
    },
    "rows": [{"label": "AMN", "cam": "amn"}, {"label": "plain", "cam": "plain"}],
}
STUDY = {
    "page": "page.md",
    "tables": {
        "k": {
            "data": "toy",
            "seeds": ["s0"],
            "base": "plain_fbr",
            "sweep": {"key": "cam_train.fbr.nrois", "values": [4, 8]},
        }
    },
}
SWEEP = {
    "title": "K",
    "study": {"file": "asked.yaml", "table": "k"},
    "columns": {"cam": {"label": "CAM", "stage": "cam_eval"}},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A checkout with two tables and nothing run."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(checkout.ROOT / name, tmp_path)
    folder = tmp_path / "workflow" / "tables"
    folder.mkdir(parents=True)
    for name, block in (("voc", VOC), ("cost", COST)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(block, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(tmp_path)


@pytest.fixture
def leave(home):
    """Leave what a stage leaves."""

    def leave(stage: str, seed: str, score: dict, run: dict | None = None, **axes: str) -> None:
        known = {"seed": seed} | AXES | axes
        folder = home.beside(stage, {axis: known[axis] for axis in axes_of(stage)})
        if score:
            write_json(folder / "metrics.json", score)
        if run:
            write_json(folder / "run.json", run)

    return leave


def val(leave, seed: str, miou: float | None, run: dict | None = None, **more) -> None:
    leave("seg_eval", seed, {"miou": miou, "split": "val", "images": 1449} | more, run)


def lines(home, block: dict) -> list[tables.Line]:
    read = tables.params.check(block, tables.TableBlock, "it.yaml")
    return list(tables.Reading(home, read).lines())


def cells(home, block: dict = VOC) -> list[dict[str, str]]:
    read = tables.params.check(block, tables.TableBlock, "it.yaml")
    table = tables.shown(read, lines(home, block))
    return [
        {k: c if isinstance(c, tuple) else str(c) for k, c in zip(table.columns, row, strict=True)}
        for row in table.rows
    ]


def test_nothing_run_leaves_every_row_standing(home):
    found = cells(home)
    assert [row["method"] for row in found] == ["AMN", "", "new", ""]
    assert [row["published"] for row in found] == ["72.2", "70.7", "None", "None"]
    assert {row["verdict"] for row in found} == {"not run"}
    assert {row["measured"] for row in found} == {"None"}
    assert [row["source"] for row in found] == ["Table 3", "Table 3", "None", "None"]


def test_seeds_become_mean_and_deviation(home, leave):
    for seed, miou in (("s0", 0.70), ("s1", 0.72), ("s3", 0.74)):
        val(leave, seed, miou)
    row = cells(home)[1]
    assert (row["measured"], row["seeds"]) == ("72.0 ± 2.0", "3")
    assert (row["difference"], row["verdict"]) == ("+1.3", "above")


@pytest.mark.parametrize(
    ("miou", "difference", "verdict"),
    [(0.707, "+0.0", "within"), (0.69, "-1.7", "below"), (0.716, "+0.9", "within")],
)
def test_one_seed_has_no_deviation_and_a_verdict(home, leave, miou, difference, verdict):
    val(leave, "s0", miou)
    row = cells(home)[1]
    assert row["measured"] == f"{100 * miou:.1f}"
    assert (row["difference"], row["verdict"]) == (difference, verdict)


def test_a_number_that_nobody_published_is_measured(home, leave):
    leave("mask_eval", "s0", {"miou": 0.6, "split": "train"}, cam="plain")
    block = VOC | {"rows": [{"label": "plain", "cam": "plain"}]}
    row = cells(home, block)[0]
    assert (row["measured"], row["published"], row["difference"]) == ("60.0", "None", "None")
    assert row["verdict"] == "measured"


def test_a_variant_that_params_do_not_know_any_more_is_outdated(home, leave):
    leave("mask_eval", "s0", {"miou": 0.6, "split": "train"}, cam="not_there_yet")
    row = cells(home)[2]
    assert (row["measured"], row["verdict"]) == ("None", "outdated")


@pytest.mark.parametrize(
    ("more", "verdict"),
    [({"split": "train"}, "of train"), ({"images": 20}, "of 20 images")],
)
def test_what_is_on_other_images_does_not_count(home, leave, more, verdict):
    val(leave, "s0", 0.9, **more)
    row = cells(home)[1]
    assert (row["measured"], row["verdict"]) == ("None", verdict)


def test_a_score_without_the_number_is_not_measured(home, leave):
    val(leave, "s0", None)
    assert cells(home)[1]["verdict"] == "not measured"


def test_an_answer_of_another_shape_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(Refusal, match=r"metrics.json: expected names and numbers"):
        tables.read(tmp_path)


def test_a_seed_of_earlier_numbers_does_not_count(home, leave, numbers):
    asked = Job("seg_eval", {"seed": "s0"} | AXES, numbers, home, threads=1).asked
    run = {"stage": "seg_eval", "asked": asked, "seconds": 3.0, "mlflow_run": None}
    val(leave, "s0", 0.7, run)
    val(leave, "s1", 0.8, run | {"asked": "something else"})
    row = cells(home)[1]
    assert (row["measured"], row["seeds"], row["verdict"]) == ("70.0", "1", "within")


def test_a_score_of_what_has_been_made_anew_with_other_numbers_since_does_not_count(
    home, leave, numbers
):
    """Masks may be new under an old score, where an engine was asked for masks alone."""
    axes = {"seed": "s0"} | AXES
    asked = Job("seg_eval", axes, numbers, home, threads=1).asked
    trained = Job("seg_train", axes, numbers, home, threads=1)
    run = {"stage": "seg_eval", "asked": asked, "seconds": 3.0, "mlflow_run": None}
    folder = trained.beside.relative_to(home.root)
    val(leave, "s0", 0.7, run | {"read": {str(folder): trained.asked}})
    assert cells(home)[1]["measured"] == "70.0"
    write_json(home.root / folder / "run.json", {"asked": trained.asked, "mlflow_run": None})
    assert cells(home)[1]["measured"] == "70.0"
    val(leave, "s0", 0.7, run | {"read": {str(folder): "earlier numbers"}})
    assert cells(home)[1]["verdict"] == "outdated"


@pytest.fixture(scope="module")
def numbers():
    return tables.params.load(checkout.ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("http://me:secret@server:5000/", "http://server:5000"),
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000"),
        ("", "http://127.0.0.1:5000"),
    ],
)
def test_a_seed_leads_to_its_run(home, leave, monkeypatch, address, base):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    val(leave, "s0", 0.7, {"seconds": 3.0, "mlflow_run": "a1"})
    val(leave, "s1", 0.7, {"seconds": 3.0, "mlflow_run": None})
    assert cells(home)[1]["runs"] == (tables.Link("s0", f"{base}/#/runs/a1"),)


def test_cost_is_read_from_whichever_stage_trained(home, leave):
    leave("amn_train", "s0", {}, {"seconds": 7200.0, "peak_memory_mb": 900, "mlflow_run": None})
    leave("cam_train", "s0", {}, {"seconds": None, "mlflow_run": None}, cam="plain")
    assert [line.compared for line in lines(home, COST)] == [[pytest.approx(2.0)], []]
    assert [line.verdict for line in lines(home, COST)] == ["measured", "not run"]


def test_rows_of_a_study_are_found_in_its_folder(home, leave):
    home.root.joinpath("asked.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    place = Workspace(home.root / "studies" / "asked")
    plan = tables.plan.load(home.root / "asked.yaml", home.params)
    place.root.mkdir(parents=True)
    place.params.write_text(yaml.safe_dump(plan.blocks, sort_keys=False))
    shutil.copy(home.pipeline, place.pipeline)
    variant = plan.tables[0].rows[0].variant
    axes = {"data": "toy", "seed": "s0", "cam": variant}
    write_json(place.path("cam_eval", "metrics.json", axes), {"miou": 0.5})
    found = lines(home, SWEEP)
    assert [(line.row, line.compared) for line in found] == [("4", [50.0]), ("8", [])]
    one = SWEEP | {"rows": [{"label": "K = 8", "row": "8"}]}
    assert [line.row for line in lines(home, one)] == ["K = 8"]
    with pytest.raises(Refusal, match=r"asked\.yaml: k: found '7', expected one of 4, 8"):
        lines(home, SWEEP | {"rows": [{"label": "K = 7", "row": "7"}]})


def test_a_study_that_asks_for_other_numbers_now_is_outdated(home):
    file = home.root / "asked.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    place = Workspace(home.root / "studies" / "asked")
    asked = tables.plan.load(file, home.params)
    write_text(place.params, yaml.safe_dump(asked.blocks, sort_keys=False))
    shutil.copy(home.pipeline, place.pipeline)
    numbers = tables.params.load(place.params)
    axes = {"data": "toy", "seed": "s0", "cam": asked.tables[0].rows[0].variant}
    job = Job("cam_eval", axes, numbers, place, threads=1)
    run = {"asked": job.asked, "seconds": 2.0, "mlflow_run": None}
    write_json(job.beside / "metrics.json", {"miou": 0.5})
    write_json(job.beside / "run.json", run)
    assert [line.verdict for line in lines(home, SWEEP)] == ["measured", "not run"]
    block = {"cam": {"plain_fbr": {"toy": {"cam_eval": {"threshold": 0.9}}}}}
    file.write_text(yaml.safe_dump(STUDY | {"params": block}, sort_keys=False))
    assert [line.verdict for line in lines(home, SWEEP)] == ["outdated", "not run"]


def test_the_command_writes_three_languages_and_counts(home, leave, capsys):
    val(leave, "s0", 0.71, {"seconds": 3.0, "mlflow_run": "a1"})
    assert main(["tables"]) == 0
    shown = capsys.readouterr().out
    assert "voc          4 lines: 3 not run, 1 within" in shown
    folder = home.root / "reports" / "tables"
    markdown = (folder / "tables.md").read_text()
    assert "| val | 71.0 | 1 | 70.7 | +0.3 | within | [s0](http://127.0.0.1" in markdown
    assert r"& 70.7 & +0.3 & within & \href{http:" in (folder / "tables.tex").read_text()
    assert 'href="http://127.0.0.1:5000/#/runs/a1">s0</a>' in (folder / "index.html").read_text()


def test_the_same_results_give_the_same_bytes(home, leave):
    val(leave, "s0", 0.71)
    contents = []
    for _ in range(2):
        main(["tables"])
        folder = home.root / "reports" / "tables"
        contents.append([file.read_bytes() for file in sorted(folder.iterdir())])
    assert contents[0] == contents[1]


def test_one_table_can_be_asked_for(home, capsys):
    assert main(["tables", "cost"]) == 0
    assert "Masks" not in (home.root / "reports" / "tables" / "tables.md").read_text()
    assert main(["tables", "cots"]) == 2
    assert "found 'cots', expected one of cost, voc. Did you mean" in capsys.readouterr().err


def test_without_tables_it_is_refused(home, capsys):
    shutil.rmtree(home.tables)
    assert main(["tables"]) == 2
    assert "found no table there" in capsys.readouterr().err


def test_a_number_keeps_the_decimals_it_was_published_with():
    assert [tables._decimals(n, 1) for n in (72.2, 72.49, 66.0, 70)] == [1, 2, 1, 1]


@pytest.fixture
def stored(home):
    """Record a finished evaluation in MLflow, of these numbers."""

    def stored(seed: str, miou: float, numbers: dict) -> str:
        info = track.RunInfo("seg_eval", {"seed": seed} | AXES, numbers)
        with track.start(home.root, info) as run:
            run.metrics({"miou": miou, "images": 1449})
        return run.id

    tables.stored.cache_clear()
    return stored


def test_mlflow_tells_the_same_without_results(home, stored, numbers, monkeypatch):
    monkeypatch.delenv("FBR_TRACK", raising=False)
    asked = numbers.of("seg_eval", AXES).model_dump(mode="json")
    stored("s0", 0.5, asked)
    runs = [stored("s0", 0.7, asked), stored("s1", 0.72, asked)]
    stored("s2", 0.9, asked | {"flip": False})
    read = tables.params.check(VOC, tables.TableBlock, "it.yaml")
    found = list(tables.Stored(home, read).lines())
    assert [line.compared for line in found] == [[], pytest.approx([70.0, 72.0]), [], []]
    assert [score.fault for score in found[1].scores] == [None, None, "outdated"]
    assert [score.run for score in found[1].scores[:2]] == runs
    assert main(["tables", "--mlflow"]) == 0


def test_without_a_store_mlflow_is_refused(home, capsys):
    assert main(["tables", "--mlflow"]) == 2
    assert "no mlflow.db here" in capsys.readouterr().err


def test_a_dead_server_is_refused_in_one_line(home, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tables.stored.cache_clear()
    assert main(["tables", "--mlflow"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("fbr: MLflow's store cannot be read: ")
