"""A study asks for each distinct recipe once, under a name that lasts, or is refused in a line."""

import copy

import pytest

from fbr import params
from fbr.errors import Refusal
from fbr.study import plan
from tests.checkout import ROOT

BLOCKS = params.read(ROOT / "params.yaml")
PLAIN = BLOCKS["cam"]["plain"]["toy"]


def table(rows: dict | None = None, **more) -> dict:
    return {"data": "toy", "seeds": ["s0", "s1"], "base": "plain", "rows": rows or {}} | more


def variants(study: plan.Study, number: int = 0) -> dict[str, str]:
    return {row.name: row.variant for row in study.tables[number].rows}


def recipe(study: plan.Study, row: str) -> dict:
    return study.blocks["cam"][variants(study)[row]]["toy"]


def test_a_row_is_its_base_with_some_keys_changed(load):
    study = load({"t": table({"all": {}, "fast": {"set": {"cam_train.lr": 0.01}}})})
    wanted = copy.deepcopy(PLAIN)
    wanted["cam_train"]["lr"] = 0.01
    assert recipe(study, "all") == PLAIN
    assert recipe(study, "fast") == wanted
    assert study.blocks["cam"]["plain"]["toy"] == PLAIN
    assert variants(study) == {"all": "plain", "fast": "plain_lr_0_01_97c14a"}


def test_a_row_over_another_has_the_changes_of_both(load):
    rows = {
        "one": {"set": {"cam_train.lr": 0.01, "cam_eval.threshold": 0.25}},
        "two": {"over": "one", "set": {"cam_train.lr": 0.02}},
        "same": {"over": "two"},
    }
    study = load({"t": table(rows)})
    assert recipe(study, "two")["cam_train"]["lr"] == 0.02
    assert recipe(study, "two")["cam_eval"]["threshold"] == 0.25
    assert recipe(study, "one")["cam_train"]["lr"] == 0.01
    assert variants(study)["same"] == variants(study)["two"]


def test_one_content_is_one_variant_wherever_it_comes_from(load):
    lr = PLAIN["cam_train"]["lr"]
    rows = {
        "base": {},
        "named": {"cam": "plain"},
        "said": {"set": {"cam_train.lr": lr, "cam_train.momentum": 0.9}},
        "there": {"set": {"cam_train.lr": 1}},
        "here": {"set": {"cam_train.lr": 1.0}},
        "and_back": {"over": "here", "set": {"cam_train.lr": lr}},
    }
    study = load({"t": table(rows), "u": table({"again": {"set": {"cam_train.lr": 1.0}}})})
    found = variants(study)
    assert {found[row] for row in ("base", "named", "said", "and_back")} == {"plain"}
    assert found["there"] == found["here"] == variants(study, 1)["again"]
    assert set(study.blocks["cam"]) == {*BLOCKS["cam"], found["here"]}


def test_names_last_when_rows_move_and_when_the_base_changes(load):
    change = {"set": {"cam_train.lr": 0.01, "cam_train.steps": 70}}
    (name,) = variants(load({"t": table({"a": change})})).values()
    edit = {"cam": {"plain": {"toy": {"cam_eval": {"threshold": 0.4}}}}}
    moved = {"new": {"set": {"cam_train.steps": 70}}, "renamed": change}
    later = load({"s": table(moved), "t": table({"a": change})}, params=edit)
    assert variants(later, 0)["renamed"] == variants(later, 1)["a"] == name
    assert params.check(later.blocks, params.Params, "study").cam[name]["toy"]


def test_a_sweep_makes_a_row_of_each_value(load):
    sweep = {"key": "cam_train.steps", "values": [100, 200]}
    study = load({"t": table({"plain": {}}, sweep=sweep, baseline=200)})
    (asked,) = study.tables
    assert [row.label for row in asked.rows] == ["plain", "100", "200"]
    assert [row.label for row in asked.sweep] == ["100", "200"]
    assert asked.baseline.name == "200"
    assert recipe(study, "100")["cam_train"]["steps"] == 100


def test_params_of_a_study_lie_over_the_others(load):
    under = copy.deepcopy(BLOCKS)
    study = load({"t": table({"a": {}})}, params={"seed": {"s9": 9}, "machine": {"processes": 2}})
    assert study.blocks["seed"] == BLOCKS["seed"] | {"s9": 9}
    assert study.blocks["machine"] == BLOCKS["machine"] | {"processes": 2}
    over = {"run": {"data": []}, "cam": 3}
    assert plan.merged(under, over)["run"] == BLOCKS["run"] | {"data": []}
    assert plan.merged(under, over)["cam"] == 3
    assert under == BLOCKS


def test_runs_are_rows_under_seeds(load):
    (asked,) = load({"t": table({"a": {}})}).tables
    assert asked.runs(asked.rows[0]) == [
        {"data": "toy", "seed": seed, "cam": "plain"} for seed in ("s0", "s1")
    ]


def test_rows_reach_to_masks_and_segmentation(load):
    rows = {
        "crf": {},
        "irn": {"mask": "irn"},
        "longer": {"cam": "seam", "set": {"seg_train.steps": 400, "cam_train.lr": 0.01}},
        "both": {"over": "longer", "set": {"crf_refine.threshold": 0.25}},
    }
    study = load({"t": table(rows, mask="crf", seg="deeplabv2")})
    (asked,) = study.tables
    assert asked.stage == "seg_eval"
    found = {row.name: row.axes for row in asked.rows}
    assert found["crf"] == {"cam": "plain", "mask": "crf", "seg": "deeplabv2"}
    assert found["irn"] == {"cam": "plain", "mask": "irn", "seg": "deeplabv2"}
    longer, both = found["longer"], found["both"]
    assert study.blocks["cam"][longer["cam"]]["toy"]["cam_train"]["lr"] == 0.01
    assert study.blocks["seg"][longer["seg"]]["toy"]["seg_train"]["steps"] == 400
    assert longer["mask"] == "crf"
    assert study.blocks["mask"][both["mask"]]["toy"]["crf_refine"]["threshold"] == 0.25
    assert both | {"mask": "crf"} == longer
    assert asked.rows[1].variant == "plain/irn/deeplabv2"
    assert asked.runs(asked.rows[1])[1] == {"data": "toy", "seed": "s1", **found["irn"]}
    (masks,) = load({"t": table(rows={"a": {}}, mask="crf")}).tables
    assert (masks.stage, masks.rows[0].axes) == ("mask_eval", {"cam": "plain", "mask": "crf"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seg": "deeplabv2"}, "found 'seg' without 'mask'"),
        ({"mask": "crv"}, r"tables\.t\.rows\.a: mask: found 'crv'.*'crf'"),
        (
            {"rows": {"a": {"mask": "crf"}}},
            "row 'a' has 'mask', expected one of the table, too",
        ),
        (
            {"mask": "crf", "rows": {"a": {}, "b": {"over": "a", "mask": "irn"}}},
            "one of 'mask' and 'over'",
        ),
        (
            {"mask": "crf", "rows": {"a": {"set": {"crf_refine.treshold": 1}}}},
            r"unknown key 'treshold'.*'threshold'",
        ),
        (
            {"mask": "crf", "rows": {"a": {"set": {"seg_train.lr": 1}}}},
            "unknown key 'seg_train', known: cam_train",
        ),
        (
            {"rows": {"a": {"set": {"cam_train.lrr": 1}}}},
            r"rows\.a: cam_train\.lrr: unknown .*'lr'",
        ),
        (
            {"rows": {"a": {"set": {"cam_trian.lr": 1}}}},
            "unknown key 'cam_trian', known: cam_train",
        ),
        ({"rows": {"a": {"set": {"cam_train.steps": 0}}}}, r"cam_train\.steps: found 0"),
        ({"rows": {"a": {"set": {"cam_train.lr.x": 1}}}}, "found 0.003 under 'lr', expected keys"),
        ({"rows": {"a": {"set": {"cam_train.method": "plian"}}}}, "method: found 'plian'"),
        (
            {"rows": {"a": {"over": "b"}, "b": {}}},
            r"rows\.a\.over, of the rows before it: found 'b'",
        ),
        (
            {"rows": {"a": {"against": "b"}, "b": {}}},
            r"rows\.a\.against, of the rows before it: found 'b'",
        ),
        ({"rows": {"a": {"cam": "plian"}}}, r"rows\.a\.cam: found 'plian'.*'plain'"),
        ({"rows": {"a": {"cam": "plain", "over": "a"}}}, "one of 'cam' and 'over'"),
        ({"rows": {"a": {"sett": {}}}}, r"unknown key 'sett', known: .*Did you mean 'set'"),
        ({"rows": {}}, "expected 'rows' or 'sweep'"),
        ({"base": "plian"}, "base: found 'plian'"),
        ({"data": "toi"}, "data: found 'toi'.*'toy'"),
        ({"seeds": ["s77"]}, "seeds: found 's77'"),
        ({"seeds": ["s0", "s0"]}, "expected each once"),
        ({"baseline": "b"}, "baseline: found 'b', expected one of a"),
        ({"sweep": {"key": "cam_train.steps", "values": [99, 99]}}, "sweep: 99: found '99' twice"),
        ({"sweep": {"key": "cam_train.stebs", "values": [1]}}, "unknown key 'stebs'.*'steps'"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(load, change, said):
    with pytest.raises(Refusal, match=said) as refusal:
        load({"t": table({"a": {}}) | change})
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(("asked.yaml: tables.t", "params.yaml"))


def test_a_dataset_without_a_recipe_is_refused(load):
    more = {"data": {"other": BLOCKS["data"]["toy"]}}
    with pytest.raises(Refusal, match=r"datasets of cam\.plain: found 'other'"):
        load({"t": table({"a": {}}, data="other")}, params=more)


def test_mistakes_of_the_file_itself_are_refused(load, tmp_path):
    with pytest.raises(Refusal, match=r"none\.yaml: not found"):
        plan.load(tmp_path / "none.yaml", ROOT / "params.yaml")
    with pytest.raises(Refusal, match=r"asked\.yaml: tables: "):
        load({})
    with pytest.raises(Refusal, match=r"unknown key 'sede', known: .*Did you mean 'seed'"):
        load({"t": table({"a": {}})}, params={"sede": {}})
