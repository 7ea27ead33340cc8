"""`fbr check-submission`: whether a test server would take an archive, wherever it comes from."""

import argparse
from itertools import islice
from pathlib import Path

from fbr import params
from fbr.datasets.prepared import Prepared
from fbr.errors import one_of
from fbr.files.submission import Wanted, problems
from fbr.workspace import Workspace

SHOWN = 20


def main(argv: list[str], workspace: Workspace) -> int:
    """Check names, count, sizes, palette and ids against the test images; extracts nothing."""
    parser = argparse.ArgumentParser(prog="fbr check-submission", description=main.__doc__)
    parser.add_argument("file", help="as submission.tar.gz")
    parser.add_argument("--data", default="voc", help="the prepared dataset (default: voc)")
    asked = parser.parse_args(argv)
    blocks = params.load(workspace.params).data
    submit = blocks[one_of(blocks, asked.data, "--data")].submit
    data = Prepared(workspace.path("prepare", "index", {"data": asked.data}).parent)
    sizes = {e.id: (e.height, e.width) for e in data.split(submit.split)}
    found = problems(Path(asked.file), Wanted(submit.archive, sizes, data.foreground))
    shown = list(islice(found, SHOWN))
    for line in shown:
        print(f"{asked.file}: {line}")
    if rest := sum(1 for _ in found):
        print(f"{asked.file}: and {rest} more")
    if not shown:
        print(f"{asked.file}: fine, {len(sizes)} masks of {asked.data}, {submit.split}")
    return 2 if shown else 0
