"""From an MXNet file to a backbone, through the command line."""

import numpy as np
import torch

from fbr import cli
from fbr.files import weights
from fbr.nets import backbones
from tests.unit.files.test_mxnet import list_bytes


def test_published_weights_become_a_backbone(tmp_path, capsys):
    source, target = tmp_path / "rna-a1.params", tmp_path / "sub" / "resnet38d.safetensors"
    conv = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype("<f4")
    arrays = {
        "arg:conv1a_weight": conv,
        "aux:bn7_moving_var": np.full(4096, 2, "<f4"),
        "arg:linear1000_bias": np.zeros(1000, "<f4"),
    }
    source.write_bytes(list_bytes(arrays, None))
    assert cli.main(["convert", str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{target}: 3 arrays, 0.0 MB\n"
    state = weights.read(target)
    with torch.device("meta"):
        backbone = backbones.build("resnet38d", 8)
    backbone.to_empty(device="cpu")
    report = weights.take(backbone, state, 0, backbone.names)
    assert report.startswith("2 of 191 tensors matched, 189 missing (bn2a_branch2a_gamma, ")
    assert report.endswith(", 1 unexpected (linear1000_bias)")
    assert np.array_equal(backbone.levels[0].conv1a.weight.detach(), conv)


def test_another_file_is_refused_and_nothing_written(tmp_path, capsys):
    source, target = tmp_path / "a.params", tmp_path / "a.safetensors"
    source.write_bytes(b"nothing of the kind")
    assert cli.main(["convert", str(source), str(target)]) == 2
    assert "begins like no list of MXNet arrays" in capsys.readouterr().err
    assert not target.exists()
