"""Patterns over axes, on a pipeline of five small stages."""

import pytest

from fbr import pipeline
from fbr.errors import Refusal

TEXT = """
stages:
  prepare:
    desc: Draw
    matrix: {data: "${run.data}"}
    cmd: python -m fbr prepare ${item.data}
    deps: [code.py]
    params: ["data.${item.data}.prepare"]
    outs: ["data/${item.data}/index.csv"]
  train:
    desc: Learn
    matrix: {data: "${run.data}", seed: "${run.seed}", cam: "${run.cam}"}
    cmd: python -m fbr train ${item.data} ${item.seed} ${item.cam}
    deps: ["data/${item.data}/index.csv"]
    params: ["seed.${item.seed}", "cam.${item.cam}.${item.data}.train"]
    outs: ["results/${item.data}/${item.seed}/${item.cam}/model": {cache: false}]
    meta: {threads: 8}
  crf:
    desc: Refine
    matrix: {data: "${run.data}", seed: "${run.seed}", cam: "${run.cam}", mask: "${run.crf}"}
    cmd: crf
    deps: ["results/${item.data}/${item.seed}/${item.cam}/model"]
    params: ["mask.${item.mask}.${item.data}.crf"]
    outs: ["results/${item.data}/${item.seed}/${item.cam}/${item.mask}/masks"]
  irn:
    desc: Spread
    matrix: {data: "${run.data}", seed: "${run.seed}", cam: "${run.cam}", mask: "${run.irn}"}
    cmd: irn
    deps: ["results/${item.data}/${item.seed}/${item.cam}/model"]
    params: ["mask.${item.mask}.${item.data}.irn"]
    outs: ["results/${item.data}/${item.seed}/${item.cam}/${item.mask}/masks"]
  report:
    desc: Show
    matrix: {data: "${run.data}"}
    cmd: report
    deps: ["results/${item.data}"]
    outs: ["reports/${item.data}/tables.md"]
    metrics: ["reports/${item.data}/metrics.json": {cache: false}]
"""
CONFIG = {
    "run": {
        "data": ["toy"],
        "seed": ["s0", "s1"],
        "cam": ["plain"],
        "crf": ["crf"],
        "irn": ["irn"],
    },
    "seed": {"s0": 0, "s1": 1, "s2": 2},
    "data": {"toy": {"prepare": 1}, "voc": {"prepare": 1}},
    "cam": {"plain": {"toy": {"train": 1}}, "amn": {"voc": {"train": 1}}},
    "mask": {
        "crf": {"toy": {"crf": 1}, "voc": {"crf": 1}},
        "sharp": {"voc": {"crf": 1}},
        "irn": {"toy": {"irn": 1}},
    },
}
TOY = {"data": "toy", "seed": "s0", "cam": "plain"}


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        file = tmp_path / "dvc.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture
def stages(write):
    return pipeline.load(write(TEXT))


@pytest.fixture
def stage(stages):
    return {stage.name: stage for stage in stages}


def test_items_become_wildcards(stage):
    train = stage["train"]
    assert train.axes == ["data", "seed", "cam"]
    assert train.cmd == "python -m fbr train {data} {seed} {cam}"
    assert train.params == ["seed.{seed}", "cam.{cam}.{data}.train"]
    assert train.writes == ["results/{data}/{seed}/{cam}/model"]
    assert train.label == "{data}/{seed}/{cam}/train"
    assert train.meta == {"threads": 8}
    assert stage["report"].writes == ["reports/{data}/tables.md", "reports/{data}/metrics.json"]
    assert stage["crf"].matrix["mask"] == "crf"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [", "not valid YAML: while parsing"),
        ("", "expected stages with desc, matrix, cmd and deps"),
        ("stages:\n", "expected stages with"),
        ("stages:\n  a: 3\n", "expected stages with"),
    ],
)
def test_another_file_is_refused(write, text, said):
    with pytest.raises(Refusal, match=f"^dvc.yaml: {said}") as caught:
        pipeline.load(write(text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_stand(tmp_path):
    with pytest.raises(Refusal, match="run from the folder"):
        pipeline.load(tmp_path / "dvc.yaml")


def test_names_are_the_blocks_that_hold_the_stage(stage):
    assert pipeline.names(stage["train"], "cam", CONFIG) == ["plain", "amn"]
    assert pipeline.names(stage["train"], "seed", CONFIG) == ["s0", "s1", "s2"]
    assert pipeline.names(stage["crf"], "mask", CONFIG) == ["crf", "sharp"]
    assert pipeline.names(stage["irn"], "mask", CONFIG) == ["irn"]
    assert pipeline.names(stage["report"], "data", CONFIG) == ["toy", "voc"]


def test_instances_are_the_product_of_the_lists_under_run(stage):
    assert pipeline.instances(stage["train"], CONFIG) == [TOY, TOY | {"seed": "s1"}]
    fixed = pipeline.instances(stage["crf"], CONFIG, data="voc", seed="s2")
    assert fixed == [{"data": "voc", "seed": "s2", "cam": "plain", "mask": "crf"}]
    nothing = CONFIG | {"run": CONFIG["run"] | {"seed": []}}
    assert pipeline.instances(stage["train"], nothing) == []


def test_inputs_are_files_or_all_below_a_folder(stages, stage):
    axes = TOY | {"mask": "crf"}
    model = "results/toy/s0/plain/model"
    assert pipeline.inputs(stage["crf"], stages, CONFIG, axes) == [model]
    assert pipeline.inputs(stage["prepare"], stages, CONFIG, {"data": "toy"}) == ["code.py"]
    below = pipeline.inputs(stage["report"], stages, CONFIG, {"data": "toy"})
    names = ("model", "crf/masks", "irn/masks")
    assert sorted(below) == sorted(
        f"results/toy/{s}/plain/{n}" for s in ("s0", "s1") for n in names
    )
    assert [s.name for s in stages if pipeline.spread(s, stages)] == ["report"]


def test_edges_lead_from_writers_to_readers(stages):
    assert pipeline.edges(stages, CONFIG) == {
        ("prepare", "train"),
        ("train", "crf"),
        ("train", "irn"),
        *((name, "report") for name in ("train", "crf", "irn")),
    }


AGAIN = """
  again:
    desc: Learn from the masks of another
    matrix: {data: "${run.data}", seed: "${run.seed}", cam: "${run.cam}"}
    cmd: again
    deps: ["results/${item.data}/${item.seed}/plain/crf/masks"]
    params: ["seed.${item.seed}", "cam.${item.cam}.${item.data}.again"]
    outs: ["results/${item.data}/${item.seed}/${item.cam}/model"]
"""
SECOND = CONFIG | {"cam": CONFIG["cam"] | {"second": {"toy": {"again": 1}}}}


@pytest.fixture
def rounds(write):
    """The pipeline with a second stage that makes models, from the masks of the first."""
    before, after = TEXT.split("  report:\n")
    return pipeline.load(write(before.rstrip() + AGAIN + "  report:\n" + after))


def test_a_second_round_leads_back_and_is_drawn_without(rounds):
    circle = {("crf", "again"), ("again", "crf"), ("again", "irn")}
    found = pipeline.edges(rounds, SECOND)
    assert circle <= found
    assert ("irn", "again") not in found, "it reads the masks of crf alone"
    assert found - set(pipeline.downward(rounds, SECOND)) == {("again", "crf"), ("again", "irn")}


def test_what_run_does_not_ask_for_is_not_drawn(stages):
    less = CONFIG | {"run": CONFIG["run"] | {"irn": []}}
    assert [s.name for s in pipeline.asked(stages, CONFIG)] == [s.name for s in stages]
    assert [s.name for s in stages if s not in pipeline.asked(stages, less)] == ["irn"]


def test_upstream_is_everything_behind_a_path_in_its_order(rounds):
    found = pipeline.upstream("results/toy/s1/second/irn/masks", rounds, SECOND)
    assert [(stage.name, axes.get("cam")) for stage, axes in found] == [
        ("prepare", None),
        ("train", "plain"),
        ("crf", "plain"),
        ("again", "second"),
        ("irn", "second"),
    ]
    with pytest.raises(Refusal, match=r"no cam 'secnd' for train, .* mean 'second'"):
        pipeline.upstream("results/toy/s1/secnd/model", rounds, SECOND)


@pytest.mark.parametrize(
    ("path", "name", "axes"),
    [
        ("results/toy/s2/plain/model", "train", TOY | {"seed": "s2"}),
        ("results/toy/s0/plain/crf/masks", "crf", TOY | {"mask": "crf"}),
        ("results/toy/s0/plain/irn/masks", "irn", TOY | {"mask": "irn"}),
        ("reports/voc/metrics.json", "report", {"data": "voc"}),
    ],
)
def test_a_path_tells_its_writer_and_its_axes(stages, path, name, axes):
    stage, found = pipeline.writer(path, stages, CONFIG)
    assert (stage.name, found) == (name, axes)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("results/toy/s0/plan/model", "no cam 'plan' for train, .* amn, plain. Did you mean 'plai"),
        ("results/toy/s7/plain/model", "no seed 's7' for train, expected one of s0, s1, s2"),
        ("results/toy/s0/plain/cfr/masks", "no mask 'cfr' for .* crf, irn, sharp. .* mean 'crf'"),
        ("results/toy/s0/plain/modle", "no stage of dvc.yaml writes this. .*/plain/model'"),
        ("results/toy/s0/amn/model", "train needs the block cam.amn.toy.train, params.yaml has"),
        # What it needs, needs it.
        ("results/toy/s0/amn/crf/masks/", "model: train needs the block cam.amn.toy.train"),
    ],
)
def test_a_path_that_cannot_be_made_is_refused(stages, path, said):
    with pytest.raises(Refusal, match=said):
        pipeline.check([path], stages, CONFIG)


def test_paths_of_others_pass(stages):
    pipeline.check(["docs/index.md", "results/toy/s2/plain/crf/masks"], stages, CONFIG)
