"""Study files over the project's own params.yaml, and workspaces with finished runs."""

import shutil

import pytest
import yaml

from fbr.files.tables import write_json
from fbr.study import plan
from fbr.study.place import Place
from fbr.workspace import Workspace
from tests.checkout import ROOT

STAGES = ("cam_train", "cam_infer", "cam_eval")


@pytest.fixture
def home(tmp_path) -> Workspace:
    for name in ("Snakefile", "dvc.yaml", "fbr"):
        (tmp_path / name).symlink_to(ROOT / name)
    # A copy: tests write to it.
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def load(home):
    """Load a study of these tables, as its file would give it."""

    def load(tables: dict, **more) -> plan.Study:
        file = home.root / "asked.yaml"
        study = {"page": "page.md", "tables": tables} | more
        file.write_text(yaml.safe_dump(study, sort_keys=False))
        return plan.load(file, home.params)

    return load


@pytest.fixture
def finish():
    """Leave what the three stages of a run leave."""

    def finish(place: Place, axes: dict, miou: float = 0.5) -> None:
        on = {"split": "train", "images": 24, "threshold": 0.3}
        score = {"miou": miou, "miou_oracle": miou} | on
        write_json(place.workspace.path("cam_eval", "metrics.json", axes), score)
        for number, stage in enumerate(STAGES):
            started = f"2030-01-01 00:00:1{number}"
            record = {"stage": stage, "seconds": 2.5, "started": started}
            write_json(place.workspace.beside(stage, axes) / "run.json", record)

    return finish
