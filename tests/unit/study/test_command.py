"""`fbr study` without an engine: what it lists, what it writes, whom it refuses."""

import shutil

import pytest
import yaml

from fbr import engines, params, study
from fbr.errors import Refusal
from fbr.study import plan
from fbr.study.place import Place

ROWS = {"plain": {}, "fast": {"label": "+ lr", "set": {"cam_train.lr": 0.01}}}


@pytest.fixture
def half(home, load, finish):
    """A study of two tables and five runs; two of its runs are finished."""
    tables = {
        "t": {"data": "toy", "seeds": ["s0", "s1"], "base": "plain", "rows": ROWS},
        "u": {"data": "toy", "seeds": ["s2"], "base": "plain", "rows": {"plain": {}}},
    }
    asked = load(tables)
    place = Place(home, asked)
    place.set_up()
    first, second = asked.tables[0].rows
    finish(place, asked.tables[0].runs(first)[0])
    finish(place, asked.tables[0].runs(second)[1], miou=0.6)
    (home.root / "page.md").write_text(
        "<!-- study:t -->\n<!-- /study -->\n<!-- study:u -->\n<!-- /study -->\n"
    )
    return str(home.root / "asked.yaml")


def test_a_dry_run_lists_and_touches_nothing(home, half, capsys):
    before = (home.root / "page.md").read_text()
    assert study.main([half, "--dry-run", "--tables", "t"], home) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "t, toy",
        "plain plain done s0; missing s1",
        "+ lr plain_lr_0_01_97c14a done s1; missing s0",
        "page.md: 2 of 4 runs are finished",
    ]
    assert (home.root / "page.md").read_text() == before


def test_write_brings_in_what_is_finished(home, half, capsys):
    assert study.main([half, "--write"], home) == 0
    assert capsys.readouterr().out == "page.md: 2 of 5 runs are finished\n"
    lines = (home.root / "page.md").read_text().splitlines()
    assert "| plain | 1 | 50.0 | 50.0 | 2 |" in lines
    assert "| + lr | 1 | 60.0 | 60.0 | 2 |" in lines
    assert "| plain | not run | – | – | – |" in lines
    assert len((home.root / "asked-runs/runs.csv").read_text().splitlines()) == 3


def test_a_checkout_without_the_results_keeps_them_and_runs_what_is_left(
    home, half, monkeypatch, capsys
):
    study.main([half, "--write"], home)
    before = [(home.root / name).read_text() for name in ("page.md", "asked-runs/runs.csv")]
    shutil.rmtree(home.root / "studies")
    asked = []

    def run(place, runs, jobs):
        asked.extend((axes["cam"], axes["seed"]) for axes in runs)
        return 0

    monkeypatch.setattr(Place, "run", run)
    assert study.main([half], home) == 0
    assert asked == [("plain_lr_0_01_97c14a", "s0"), ("plain", "s1"), ("plain", "s2")]
    assert capsys.readouterr().out.endswith("page.md: 2 of 5 runs are finished\n")
    after = [(home.root / name).read_text() for name in ("page.md", "asked-runs/runs.csv")]
    assert after == before


def test_a_remembered_run_counts_until_its_recipe_changes_or_it_runs_here(home, half):
    study.main([half, "--write"], home)
    shutil.rmtree(home.root / "studies")
    asked = plan.load(home.root / "asked.yaml", home.params)
    plain = asked.tables[0].runs(asked.tables[0].rows[0])[0]
    place = Place(home, asked)
    found = place.score(plain)
    assert (found["miou"], found["seconds"]) == (0.5, 2.5)
    assert found["on"] == "train (24 images), fixed threshold 0.3"
    numbers = params.read(home.params)
    numbers["cam"]["plain"]["toy"]["cam_infer"]["flip"] ^= True
    home.params.write_text(yaml.safe_dump(numbers))
    changed = Place(home, plan.load(home.root / "asked.yaml", home.params))
    assert changed.score(plain) is None
    result = place.workspace.root / "results/toy/s0/plain"
    (result / "cam_train").mkdir(parents=True)  # as another table may need it
    assert place.score(plain) == found
    (result / "cam_eval").mkdir()
    assert place.score(plain) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("recipe,", "recipes,", "found no column recipe; delete it"),
        ("0.5", "half", "plain under s0: could not convert.*'half'; mend or delete this line"),
    ],
)
def test_a_broken_list_of_runs_is_refused(home, half, old, new, said):
    study.main([half, "--write"], home)
    file = home.root / "asked-runs/runs.csv"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(Refusal, match=f"runs.csv: {said}"):
        study.main([half, "--dry-run"], home)


def test_mistakes_end_it_before_anything_runs(home, half):
    with pytest.raises(Refusal, match="--tables: found 'x', expected one of t, u"):
        study.main([half, "--tables", "t,x"], home)
    with pytest.raises(SystemExit):
        study.main([half, "--jobs", "0"], home)
    (home.root / "page.md").write_text("<!-- study:t -->\n<!-- /study -->\n")
    with pytest.raises(Refusal, match="found 0 markers <!-- study:u -->"):
        study.main([half], home)


def test_one_at_a_time(home, half, monkeypatch):
    monkeypatch.setattr(engines, "snakemake", lambda where: "pid 7 on node")
    with pytest.raises(Refusal, match=r"Snakemake runs in .*asked \(pid 7 on node\); wait for it"):
        study.main([half], home)
    place = home.root / "studies" / "asked"
    with (
        engines.guarded(engines.Workspace(place), "study", {"study": "asked"}),
        pytest.raises(Refusal, match="study asked runs already"),
    ):
        study.main([half], home)


def test_seeds_run_one_after_another_and_a_failure_is_told(home, half, monkeypatch):
    codes, asked = iter((0, -9, 1)), []

    def run(place, runs, jobs):
        asked.append([(axes["cam"], axes["seed"]) for axes in runs])
        return next(codes)

    monkeypatch.setattr(Place, "run", run)
    assert study.main([half, "--jobs", "3"], home) == 9
    fast = "plain_lr_0_01_97c14a"
    assert asked == [
        [("plain", "s0"), (fast, "s0")],
        [("plain", "s1"), (fast, "s1")],
        [("plain", "s2")],
    ]
    codes = iter((2, 0, 0))
    assert study.main([half], home) == 2
    assert len(asked) == 4
