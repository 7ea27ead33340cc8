"""What the README shows and says is what the files say."""

import re

import pytest

from fbr import params, pipeline
from fbr.show import plots
from fbr.study import pages, plan
from tests.checkout import ROOT

README = (ROOT / "README.md").read_text()


def test_the_drawing_of_the_pipeline_is_current():
    blocks = params.read(ROOT / "params.yaml")
    stages = pipeline.asked(pipeline.load(ROOT / "dvc.yaml"), blocks)
    drawing = plots.graph([(s.name, s.desc) for s in stages], pipeline.downward(stages, blocks))
    assert (ROOT / "docs" / "pipeline.svg").read_text() == drawing + "\n", "run docs/make.py"


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "studies").glob("*.yaml")), ids=str)
def test_a_study_can_be_run_and_its_page_has_a_place_for_each_table(file):
    study = plan.load(file, ROOT / "params.yaml")
    pages.check(ROOT / study.page, study)


def test_every_file_that_the_pages_name_is_there():
    for page in ("README.md", "CONTRIBUTING.md", "data/README.md", "docs/tutorial.md"):
        text = (ROOT / page).read_text()
        named = re.findall(r"\]\(([\w/.]+)\)|src=\"([\w/.]+)\"", text)
        for path in filter(None, (a or b for a, b in named)):
            assert (ROOT / path).is_file(), f"{page} names {path}"


def test_two_lines_set_everything_up():
    """.ci/run takes its commands from the first two code blocks."""
    main, tests = (b.strip() for b in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:2])
    assert main.endswith("snakemake --cores all seg_toy")
    assert "\n" not in main
    assert tests.endswith("pytest")
    assert "\n" not in tests
