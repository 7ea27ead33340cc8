"""Maps of a split, drawn where positions lie or, if asked to, as the published codes draw them."""

import numpy as np
import pytest
import torch

from fbr import track
from fbr.files import maps, weights
from fbr.files.tables import write_json
from fbr.nets.inference import multi_scale
from fbr.stages import cam_infer, cam_training, training
from tests.unit.stages.conftest import ENTRIES


@pytest.fixture
def trained(job):
    """A job with a network of nothing but its first weights behind it."""
    made, train = job("cam_infer"), job("cam_train")
    made.run = track.Run(0)
    network = cam_training.network(train, seeded=False)
    weights.write(made.path("cam_train", "model"), network)
    write_json(made.path("cam_train", "model.json"), training.describe(train, "0123"))
    return made, network.eval()


@pytest.mark.parametrize("cells", [False, True])
def test_maps_lie_where_positions_do_or_in_cells(trained, cells):
    made, network = trained
    changes = {"scales": [1.0, 1.5], "flip": True, "also": "val", "cells": cells}
    made.numbers = made.numbers.model_copy(update=changes)
    cam_infer.run(made)
    for entry in ENTRIES:
        found = maps.read(made.out("cams") / f"{entry.id}.npz")
        mean = multi_scale(
            network.maps,
            made.data.image(entry)[None],
            *(made.numbers.scales, True, tuple(-(-side // 4) for side in found.size)),
            *(torch.device("cpu"), True, None if cells else network.positions),
        )
        expected = network.finish(mean[0], torch.tensor(entry.classes, dtype=torch.long))
        assert found.cam.shape == expected.shape
        assert np.abs(found.cam - expected.numpy()).max(initial=0) < 2e-3


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_power_moves_thresholds_and_nothing_else(trained, power):
    """Where maps lie above t they lie above t^p once they are raised to p."""
    made, _ = trained
    plain = {}
    for p in (1.0, power):
        made.numbers = made.numbers.model_copy(update={"also": "val", "power": p})
        cam_infer.run(made)
        plain[p] = [maps.read(made.out("cams") / f"{e.id}.npz").cam for e in ENTRIES]
    for before, after in zip(plain[1.0], plain[power], strict=True):
        assert np.abs(before**power - after).max(initial=0) < 2e-3
        if before.size:
            assert np.abs(before - after).max() > 0.02
            assert before.max() == after.max() == 1
