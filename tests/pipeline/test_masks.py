"""Every way to masks that `run:` does not list, asked for by its path, on a tiny world."""

import numpy as np

from fbr.datasets.prepared import Prepared
from fbr.files import maps, pictures
from fbr.files.tables import read_json
from fbr.masks.seeds import label_map
from tests import checkout
from tests.pipeline import tiny

BEHIND = {
    "psa": {"psa_seeds/crf_refine", "psa/psa_train", "psa/psa_infer", "psa/mask_eval"},
    "superpixel": {"superpixel/superpixel_refine", "superpixel/mask_eval"},
    "none": {"none/cam_cut", "none/mask_eval"},
}


def test_each_runs_behind_plain_and_brings_about_nothing_else(tmp_path):
    folder = tiny.make(tmp_path / "fbr")
    results = folder / "results/toy/s0/plain"
    targets = [f"results/toy/s0/plain/{mask}/mask_eval/metrics.json" for mask in BEHIND]
    done = checkout.engine(folder, "snakemake", "--cores", "1", *targets)
    assert done.returncode == 0, done.stderr[-3000:]
    ran = {str(file.parent.relative_to(results)) for file in results.rglob("run.json")}
    assert ran == {"cam_train", "cam_infer"}.union(*BEHIND.values())

    data = Prepared(folder / "data/toy")
    for target, mask in zip(targets, BEHIND, strict=True):
        metrics = read_json(folder / target)
        assert 0 < metrics["miou"] < 1
        assert (metrics["threshold"], metrics["threshold_choice"]) == (0.3, "fixed")
        assert metrics["crf"] is False
        for entry in data.split("train"):
            found = data.ids(results / mask / "masks" / f"{entry.id}.png", entry)
            assert {*np.unique(found)} <= {0, *entry.classes}
    entry = data.split("train")[0]
    seen = maps.read(results / "cam_infer/cams" / f"{entry.id}.npz")
    cut = pictures.read_mask(results / "none/masks" / f"{entry.id}.png")
    assert np.array_equal(cut, label_map(seen.full(), seen.keys, 0.3))

    history = (results / "psa/psa_train/history.csv").read_text().splitlines()[0]
    assert {"affinity_bg", "affinity_fg", "affinity_neg"} <= set(history.split(","))
