"""A study's workspace: written when something changed, and only scores of today's recipes count."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from fbr import params, pipeline
from fbr.files.tables import write_json
from fbr.study.place import Place, _interruptible

ROWS = {"plain": {}, "fast": {"set": {"cam_train.lr": 0.01}}}


@pytest.fixture
def study(load):
    def make(rows: dict, **more):
        return load({"t": {"data": "toy", "seeds": ["s0"], "base": "plain", "rows": rows}}, **more)

    return make


def axes(study, row: str = "fast") -> dict:
    (table,) = study.tables
    return next(table.runs(each)[0] for each in table.rows if each.name == row)


def test_the_workspace_holds_what_an_engine_reads(home, study):
    asked = study(ROWS)
    place = Place(home, asked)
    place.set_up()
    there = place.workspace
    assert there.root == home.root / "studies" / "asked"
    assert params.read(there.params) == asked.blocks
    assert params.load(there.params).of("cam_train", axes(asked)).lr == 0.01
    assert {stage.meta["threads"] for stage in pipeline.load(there.pipeline)} == {1}
    for name in ("Snakefile", "fbr"):
        assert (there.root / name).samefile(home.root / name)
    assert not (there.root / "downloads").exists()


def test_params_are_written_only_when_they_change(home, study):
    place = Place(home, study(ROWS))
    place.set_up()
    before = place.workspace.params.stat().st_mtime_ns
    Place(home, study(ROWS)).set_up()
    assert place.workspace.params.stat().st_mtime_ns == before
    Place(home, study({"plain": {}})).set_up()
    assert place.workspace.params.stat().st_mtime_ns != before


def test_a_score_comes_with_the_seconds_of_its_training(home, study, finish):
    asked = study(ROWS)
    place = Place(home, asked)
    place.set_up()
    assert place.score(axes(asked)) is None
    finish(place, axes(asked))
    score = place.score(axes(asked))
    assert (score["miou"], score["seconds"]) == (0.5, 2.5)
    (place.workspace.beside("cam_train", axes(asked)) / "run.json").unlink()
    assert place.score(axes(asked)) == score | {"seconds": None}


@pytest.mark.parametrize(("begin", "seconds"), [(30, 2.5), (10, None)])
def test_a_score_behind_a_stage_that_began_anew_does_not_count(home, study, finish, begin, seconds):
    asked = study(ROWS)
    place = Place(home, asked)
    place.set_up()
    finish(place, axes(asked))
    record = {"stage": "cam_train", "seconds": seconds, "started": f"2030-01-01 00:00:{begin}"}
    write_json(place.workspace.beside("cam_train", axes(asked)) / "run.json", record)
    assert place.score(axes(asked)) is None


def test_scores_of_a_changed_recipe_are_dropped_and_others_stay(home, study, finish):
    asked = study(ROWS)
    first = Place(home, asked)
    first.set_up()
    for row in ROWS:
        finish(first, axes(asked, row))
    edit = {"cam": {"plain": {"toy": {"cam_eval": {"threshold": 0.4}}}}}
    for change, left in (
        ({}, [True, True]),
        ({"machine": {"processes": 2}}, [True, True]),
        (edit, [False, False]),
        ({"seed": {"s0": 12}}, [False, False]),
        ({"data": {"toy": {"prepare": {"train": 12}}}}, [False, False]),
    ):
        place = Place(home, study(ROWS, params=change))
        assert [place.score(axes(asked, row)) is not None for row in ROWS] == left
        assert first.score(axes(asked)), "looking changes nothing"
    without = study({"plain": {}})
    Place(home, without).set_up()
    assert Place(home, without).score(axes(without, "plain"))
    again = Place(home, asked)
    again.set_up()
    assert again.score(axes(asked, "plain"))
    assert again.score(axes(asked, "fast")) is None


def test_a_second_round_is_of_the_seeds_it_came_from(home, study, finish):
    rows = {"plain": {}, "second": {"cam": "amn"}}
    asked = study(rows)
    place = Place(home, asked)
    place.set_up()
    finish(place, axes(asked, "second"))
    assert place.score(axes(asked, "second"))
    record = {"stage": "amn_train", "seconds": 7.5, "started": "2030-01-01 00:00:11"}
    write_json(place.workspace.beside("amn_train", axes(asked, "second")) / "run.json", record)
    assert place.score(axes(asked, "second"))["seconds"] == 7.5
    for change in (
        {"cam": {"plain": {"toy": {"cam_train": {"lr": 0.01}}}}},
        {"mask": {"amn_seeds": {"toy": {"crf_refine": {"fg_threshold": 0.5}}}}},
    ):
        assert Place(home, study(rows, params=change)).score(axes(asked, "second")) is None
    other = {"cam": {"plain": {"toy": {"cam_eval": {"threshold": 0.4}}}}}
    assert Place(home, study(rows, params=other)).score(axes(asked, "second"))
    late = {"stage": "cam_train", "seconds": 2.5, "started": "2030-01-01 00:00:30"}
    first = axes(asked, "second") | {"cam": "plain"}
    write_json(place.workspace.beside("cam_train", first) / "run.json", late)
    assert place.score(axes(asked, "second")) is None


def test_predictions_took_what_all_stages_before_them_took(home, load):
    def study(**more):
        table = {"data": "toy", "seeds": ["s0"], "base": "amn", "mask": "crf", "seg": "deeplabv2"}
        return load({"t": table | {"rows": {"a": {}}}}, **more)

    asked = study()
    place = Place(home, asked)
    place.set_up()
    own = axes(asked, "a")
    behind = [(stage.name, where) for stage, where in place._behind(own)]
    for number, (stage, where) in enumerate(behind):
        record = {"stage": stage, "seconds": 10.0 + number, "started": f"2030-01-01 00:00:{number}"}
        write_json(place.workspace.beside(stage, where) / "run.json", record)
    ways = {"single": {"miou": 0.4, "scales": [1.0]}}
    file = place.workspace.path("seg_eval", "metrics.json", own)
    write_json(file, {"miou": 0.5, "also": ways})
    # plain's two stages, its seeds, AMN's two, its masks, the network's two; prepare is shared.
    assert [stage for stage, _ in behind] == [
        *("prepare", "cam_train", "cam_infer", "crf_refine", "amn_train", "amn_infer"),
        *("crf_refine", "seg_train", "seg_eval"),
    ]
    score = place.score(own)
    assert score["seconds"] == 11 + 12 + 13 + 14 + 15 + 16 + 17 + 18
    assert score["miou_single"] == 0.4
    other = {"mask": {"crf": {"toy": {"crf_refine": {"threshold": 0.2}}}}}
    assert Place(home, study(params=other)).score(own) is None
    Place(home, study(params=other)).set_up()
    assert not file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_was_started_too(tmp_path, number):
    def interrupt() -> None:
        while not (tmp_path / "pid").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    job = "sleep 60 & echo $! > pid.partial; mv pid.partial pid; wait"
    with pytest.raises(KeyboardInterrupt):
        _interruptible(["sh", "-c", job], tmp_path)
    until = time.monotonic() + 10
    while lives((tmp_path / "pid").read_text().strip()):
        assert time.monotonic() < until, "the job outlived the signal"
        time.sleep(0.01)


def lives(pid: str) -> bool:
    """Whether a process is there, and not only waiting for someone to take note of its end."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
