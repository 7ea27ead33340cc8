"""CONTRIBUTING.md's example of a new method, taken from the page and trained."""

import json
import re
import subprocess
import sys

from tests import checkout
from tests.pipeline import tiny

PAGE = (checkout.ROOT / "CONTRIBUTING.md").read_text()
LSE = ("toy", "s0", "lse")
WAY = [("prepare", "toy"), ("cam_train", *LSE), ("cam_infer", *LSE), ("cam_eval", *LSE)]
# One process for all, and not this one: the package is another one there.
IN_ONE = """
import json, sys
from fbr import cam, cli
assert "lse" in cam.CAM
for command in json.loads(sys.argv[1]):
    if code := cli.main(command):
        sys.exit(code)
"""


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
    planned = checkout.engine(folder, "snakemake", "-n", "--quiet", "reason", "--", target)
    assert planned.returncode == 0, planned.stderr[-2000:]
    rules = re.findall(r"^(?:local)?rule (\w+):", planned.stdout, re.MULTILINE)
    assert sorted(rules) == sorted(name for name, *_ in WAY)
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE, json.dumps(WAY)],
        cwd=folder,
        env=checkout.environment() | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / target).is_file()
