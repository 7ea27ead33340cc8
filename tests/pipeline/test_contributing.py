"""CONTRIBUTING.md's example of a new method, taken from the page and trained."""

import re

from tests import checkout
from tests.pipeline import tiny

PAGE = (checkout.ROOT / "CONTRIBUTING.md").read_text()


def test_the_example_trains_scores_and_is_asked_for_by_its_path(tmp_path):
    folder = checkout.make(tmp_path / "fbr", toy=False)
    module, entry = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "fbr/cam/lse.py").write_text(module)
    init = folder / "fbr/cam/__init__.py"
    init.write_text(init.read_text().split("\n")[0] + "\n\n" + entry)
    numbers = folder / "params.yaml"
    text = numbers.read_text().replace("\nmask:\n", f"\n{block}\nmask:\n", 1)
    numbers.write_text(text)
    checkout.edit(numbers, tiny.shrink)
    target = "results/toy/s0/lse/cam_eval/metrics.json"
    done = checkout.engine(folder, "snakemake", "--cores", "2", target)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / target).is_file()
