"""The tables that come with the project: readable, in order, and every number of FBR's README."""

import pytest

from fbr import published
from fbr.params import load
from fbr.study import plan
from fbr.workspace import Workspace
from tests.checkout import ROOT

TABLES = published.load(Workspace(ROOT).tables)
# Bases and refinements that others published and nothing here makes: their rows stand for reading.
ELSEWHERE = {"bestie", "truth", "eps_base", "irn_broken"}


@pytest.mark.parametrize("name", TABLES)
def test_rows_name_blocks_of_params(name):
    numbers, block = load(ROOT / "params.yaml"), TABLES[name]
    for row in block.rows:
        for axis, variant in block.axes(row).items():
            here = set(numbers.variants(axis))
            assert variant in here | ELSEWHERE, f"{row.label}: {axis} {variant}"
            assert not here & ELSEWHERE


@pytest.mark.parametrize("name", [name for name, block in TABLES.items() if block.study])
def test_studies_behind_tables_can_be_read(name):
    asked = TABLES[name].study
    study = plan.load(ROOT / asked.file, ROOT / "params.yaml")
    assert asked.table in [table.name for table in study.tables]
    assert (ROOT / study.page).is_file()


@pytest.mark.parametrize(
    ("stage", "data", "cam", "mask", "seg", "values"),
    [
        ("mask_eval", "voc", "amn", "irn", "deeplabv2", {72.2, 70.7, 71.74, 72.49}),
        ("mask_eval", "voc", "amn_fbr", "irn", "deeplabv2", {73.1, 72.78}),
        ("mask_eval", "voc", "ppc_eps_fbr", "crf_ppc", "deeplabv2_ppc", {75.9, 74.8, 74.86}),
        ("seg_eval", "voc", "amn", "irn", "deeplabv2", {70.7}),
        ("seg_eval", "voc", "amn_fbr", "irn", "deeplabv2", {71.8}),
        ("submit", "voc", "amn_fbr", "irn", "deeplabv2", {73.2}),
        ("submit", "voc", "ppc_eps_fbr", "crf_ppc", "deeplabv2_ppc", {74.9}),
        ("mask_eval", "coco", "amn_fbr", "irn", "deeplabv2", {46.7}),
        ("seg_eval", "coco", "amn_fbr", "irn", "deeplabv2", {45.6}),
        ("mask_eval", "coco", "amn", "irn", "deeplabv2", set()),
        ("cam_eval", "voc", "eps", "crf", "deeplabv2", {69.22}),
        ("cam_eval", "voc", "amn_fbr", "irn", "deeplabv2", set()),
        ("mask_eval", "voc", "ppc_seam", "psa", "deeplabv1", {69.2}),
        ("seg_eval", "voc", "ppc_seam", "psa", "deeplabv1", {67.7}),
        ("seg_eval", "voc", "ppc_eps", "crf_ppc", "deeplabv1", set()),
    ],
)
def test_an_evaluation_expects_what_was_published(stage, data, cam, mask, seg, values):
    axes = {"data": data, "seed": "s0", "cam": cam, "mask": mask, "seg": seg}
    found = published.expected(Workspace(ROOT).tables, stage, axes)
    assert {one.value for one in found} == values
