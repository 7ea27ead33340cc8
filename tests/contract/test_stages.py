"""One word per stage: in dvc.yaml, in fbr.workspace, as module, command, model and folder."""

import ast
import json

import jsonschema
import pytest

from fbr import params, pipeline
from fbr.cli import _dispatch
from fbr.errors import Refusal
from fbr.workspace import PATHS
from tests.checkout import ROOT

STAGES = {stage.name: stage for stage in pipeline.load(ROOT / "dvc.yaml")}
BLOCKS = params.read(ROOT / "params.yaml")


def test_dvc_yaml_has_the_stages_of_the_workspace():
    assert list(STAGES) == list(PATHS)


@pytest.mark.parametrize("name", PATHS)
class TestStage:
    def test_writes_what_the_workspace_says(self, name):
        assert sorted(STAGES[name].writes) == sorted(PATHS[name].values())

    def test_module_has_a_run_function_of_one_job(self, name):
        tree = ast.parse((ROOT / "fbr" / "stages" / f"{name}.py").read_text())
        assert ast.get_docstring(tree)
        run = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "run")
        assert [argument.arg for argument in run.args.args] == ["job"]

    def test_command_is_the_stage_and_its_axes(self, name):
        stage = STAGES[name]
        assert stage.cmd.split() == ["python", "-m", "fbr", name, *(f"{{{a}}}" for a in stage.axes)]

    def test_command_line_knows_it(self, name, monkeypatch, capsys):
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit) as left:
            _dispatch([name, "--help"])
        assert left.value.code == 0
        shown = capsys.readouterr().out
        assert STAGES[name].desc.split()[0] in shown
        assert all(axis in shown for axis in STAGES[name].axes)

    def test_reads_its_own_module_and_no_number_of_others(self, name):
        stage = STAGES[name]
        code = [dep for dep in stage.deps if dep.endswith(".py")]
        assert code == [f"fbr/stages/{name}.py"]
        section, *rest = [p for p in stage.params if not p.startswith("seed.")]
        assert not rest
        axis = params.SECTION[name]
        assert section == ".".join(
            [axis, f"{{{axis}}}", *(["{data}"] if axis != "data" else []), name]
        )

    def test_watches_the_seed_where_it_trains(self, name):
        assert ("seed.{seed}" in STAGES[name].params) == name.endswith("_train")

    def test_says_what_it_is_and_needs(self, name):
        stage = STAGES[name]
        assert stage.desc
        assert {"threads", "mem_gb", "minutes"} <= set(stage.meta) <= {*stage.meta, "gpu"}
        assert all(isinstance(value, int) for value in stage.meta.values())

    def test_every_axis_is_in_every_output(self, name):
        stage = STAGES[name]
        for path in stage.writes:
            assert pipeline.FIELD.findall(path) == stage.axes

    def test_code_it_depends_on_is_there(self, name):
        for dep in STAGES[name].deps:
            assert not dep.startswith("fbr/") or (ROOT / dep).is_file()


def test_no_two_stages_can_write_one_path():
    for one in STAGES.values():
        for other in STAGES.values():
            shared = set(one.writes) & set(other.writes)
            if one is not other and shared:
                assert any(
                    not set(pipeline.names(one, a, BLOCKS)) & set(pipeline.names(other, a, BLOCKS))
                    for a in one.axes
                ), shared


def test_schema_is_that_of_the_models():
    file = ROOT / "workflow" / "schemas" / "params.schema.json"
    schema = json.loads(file.read_text())
    assert schema == params.Params.model_json_schema(), f"python -m fbr.params > {file.name}"
    jsonschema.validate(BLOCKS, schema)


def test_every_recipe_of_every_dataset_is_valid():
    numbers = params.load(ROOT / "params.yaml")
    for name, stage in STAGES.items():
        axis = params.SECTION[name]
        for variant in pipeline.names(stage, axis, BLOCKS):
            for data in numbers.data:
                axes = {"data": data} | {axis: variant}
                if axis == "data" or data in getattr(numbers, axis)[variant]:
                    assert numbers.of(name, axes) is not None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("results/toy/s0/plan/cam_train/model.json", "no cam 'plan' for cam_train.*'plain'"),
        (
            "results/toy/s0/plain/irn/seeds",
            "no mask 'irn' for crf_refine, expected one of amn_seeds, crf, crf_ppc, psa_seeds",
        ),
        ("results/toy/s0/amm/cam_infer/cams", "no cam 'amm' for cam_infer, .* mean 'amn'"),
        ("results/toi/s0/plain/cam_infer/cams/", "no data 'toi'.*'toy'"),
        ("results/toy/s0/plain/cam_trian/model.json", "no stage.*cam_train/model.json"),
    ],
)
def test_a_path_that_cannot_be_made_is_refused(path, said):
    with pytest.raises(Refusal, match=said):
        pipeline.check([path], list(STAGES.values()), BLOCKS)


def test_a_missing_recipe_far_upstream_is_refused():
    blocks = params.read(ROOT / "params.yaml")
    del blocks["cam"]["plain"]["voc"]
    path = "results/voc/s0/plain/irn/deeplabv2/seg_eval/metrics.json"
    with pytest.raises(Refusal, match=r"cam_train needs the block cam\.plain\.voc\.cam_train"):
        pipeline.check([path], list(STAGES.values()), blocks)


@pytest.mark.parametrize("key", ["desc", "cmd", "deps", "matrix"])
def test_a_broken_dvc_yaml_is_refused(key, tmp_path):
    entry = {"desc": "x", "cmd": "x", "deps": [], "matrix": {}}
    entry.pop(key)
    file = tmp_path / "dvc.yaml"
    file.write_text(json.dumps({"stages": {"prepare": entry}}))
    with pytest.raises(Refusal, match=key):
        pipeline.load(file)
