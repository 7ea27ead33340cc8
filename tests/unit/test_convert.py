"""From an MXNet file, or one of deeplab-pytorch, to a backbone, through the command line."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch

from fbr import cli
from fbr.files import weights
from fbr.nets import backbones, caffe_resnet
from fbr.nets.inputs import MEAN, normalise
from tests.reference import caffe_resnet as reference
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


SLIM = 8


@pytest.fixture
def slim(monkeypatch):
    """ResNet-101 with an eighth of the channels inside its blocks, to be quick."""
    constructor = partial(caffe_resnet.models.resnet101, width_per_group=64 // SLIM)
    monkeypatch.setattr(caffe_resnet.models, "resnet101", constructor)


@pytest.fixture
def files(tmp_path):
    return tmp_path / "deeplabv1_resnet101-coco.pth", tmp_path / "sub" / "coco.safetensors"


def converted(files) -> int:
    return cli.main(["convert", *map(str, files)])


# Of today, of before there were archives, and within a network of several scales.
@pytest.mark.parametrize(("archive", "prefix"), [(True, ""), (False, ""), (True, "base.")])
def test_weights_on_coco_compute_what_they_were_published_for(slim, files, capsys, archive, prefix):
    state = reference.weights(SLIM)
    renamed = {prefix + key: tensor for key, tensor in state.items()}
    torch.save(renamed, files[0], _use_new_zipfile_serialization=archive)
    assert converted(files) == 0
    said = f"520 of 520 tensors matched, 2 unexpected ({prefix}fc.bias, {prefix}fc.weight)"
    assert capsys.readouterr().out == f"{files[1]}: {said}\n"

    ready = weights.read(files[1])
    assert len(ready) == 520
    backbone = backbones.build("resnet101_caffe", 8, weights=ready, least_matched=1.0).eval()
    images = torch.randint(0, 256, (1, 49, 65, 3), dtype=torch.uint8)
    caffes = (images.float() - 255 * torch.tensor(MEAN)).flip(3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found, expected = backbone(normalise(images)), reference.maps(state, caffes)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_older_names_and_what_is_missing_are_told(slim, files, capsys):
    state = reference.weights(SLIM, shortcut="proj")
    del state["layer1.conv1.conv.weight"], state["layer5.block1.proj.bn.bias"]
    torch.save(state, files[0])
    assert converted(files) == 0
    said = "518 of 520 tensors matched, 2 missing (conv1.weight, layer4.0.downsample.1.bias), "
    assert f"{said}2 unexpected" in capsys.readouterr().out
    assert len(weights.read(files[1])) == 518


def test_any_other_state_dict_keeps_its_names(files, capsys):
    shared = torch.rand(2, 3)
    state = {
        "conv1.weight": shared.mT,
        "fc.weight": shared,
        "bn1.num_batches_tracked": torch.ones(()),
    }
    torch.save(state, files[0])
    assert converted(files) == 0
    assert capsys.readouterr().out == f"{files[1]}: 3 tensors, 0.0 MB\n"
    found = weights.read(files[1])
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


class Evil:
    """Runs code wherever it is unpickled."""

    def __init__(self, trace) -> None:
        self.trace = trace

    def __reduce__(self):
        return exec, (f"open({str(self.trace)!r}, 'w').close()",)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_file_that_would_run_code_is_refused_and_runs_none(files, tmp_path, capsys, write):
    trace = tmp_path / "trace"
    with open(files[0], "wb") as file:
        write({"layer1.conv1.conv.weight": Evil(trace)}, file)
    assert converted(files) == 2
    assert "is broken, or holds more than tensors (UnpicklingError)" in capsys.readouterr().err
    assert not trace.exists()
    assert not files[1].exists()
    with open(files[0], "rb") as file:  # a reader that trusts it runs it, so the test can fail
        (pickle.load if write is pickle.dump else partial(torch.load, weights_only=False))(file)
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"conv1.weight": torch.zeros(1)}}, "no table of tensors by name"),
        ([torch.zeros(1)], "no table of tensors by name"),
        ({}, "holds no tensor"),
        ({"layer1.conv1.conv.weight": torch.zeros(1)}, "0 of 520 tensors matched, 519 missing"),
    ],
)
def test_other_tensors_are_refused_and_nothing_written(slim, files, capsys, content, said):
    torch.save(content, files[0])
    assert converted(files) == 2
    assert said in capsys.readouterr().err
    assert not files[1].exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.caffemodel", "found '.caffemodel', expected one of .params, .pth"),
        ("a.pth", "missing, expected weights that torch.save wrote"),
        ("a.params", "missing, expected an MXNet .params file"),
    ],
)
def test_what_is_missing_or_of_no_known_kind_is_refused(tmp_path, capsys, name, said):
    assert converted((tmp_path / name, tmp_path / "a.safetensors")) == 2
    assert said in capsys.readouterr().err
