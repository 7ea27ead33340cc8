"""Every CAM method of the toy world from its training to the score of its maps."""

import numpy as np
import pytest

from fbr import track
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.stages import cam_eval, cam_infer, cam_train
from tests.unit.stages.conftest import ENTRIES

METHODS = [
    *("plain", "plain_fbr", "plain_fbr_plus", "seam", "seam_fbr", "eps", "eps_fbr"),
    *("ppc_seam", "ppc_seam_fbr", "ppc_eps", "ppc_eps_fbr"),
]


@pytest.mark.parametrize("cam", METHODS)
def test_a_method_goes_from_training_to_a_score(job, tmp_path, cam):
    rng = np.random.default_rng(0)
    for entry in ENTRIES:
        ids = rng.integers(0, 3, (entry.height, entry.width), np.uint8)
        salient = rng.integers(0, 256, ids.shape, np.uint8)
        pictures.write_mask(tmp_path / "data/toy/masks" / f"{entry.id}.png", ids)
        pictures.write_grey(tmp_path / "data/toy/saliency" / f"{entry.id}.png", salient)
    done = {}
    for stage, module, changes in (
        ("cam_train", cam_train, {"steps": 2, "batch": 2, "log_every": 1}),
        ("cam_infer", cam_infer, {"also": "val"}),
        ("cam_eval", cam_eval, {"also": "val"}),
    ):
        made = done[stage] = job(stage, cam=cam)
        made.numbers, made.run = made.numbers.model_copy(update=changes), track.Run(0)
        module.run(made)
    for entry in ENTRIES:
        found = maps.read(done["cam_infer"].out("cams") / f"{entry.id}.npz")
        assert found.keys.tolist() == list(entry.classes)  # no map of any other class
        assert found.size == (entry.height, entry.width)
        assert np.isfinite(found.cam).all()
    metrics = read_json(done["cam_eval"].out("metrics.json"))
    assert metrics.get("power", 1) == done["cam_infer"].numbers.power
    assert 0 < metrics["miou"] <= metrics["miou_oracle"] < 1
