"""A network as ONNX: the same scores for images of any size, or nothing written."""

import json

import numpy as np
import pytest
import torch

from fbr import cli
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.stages import exporting, networks
from tests import untrained

SIZES = [(40, 56), (1, 1), (33, 70), (64, 65), (7, 90), (50, 50), (51, 50), (9, 8), (96, 32)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("stage", ["seg_train", "cam_train", "cam_train, FBR"])
def test_the_file_gives_what_torch_gives(place, capsys, stage):
    pytest.importorskip("onnxscript", reason="an extra: pip install 'fbr[export]'")
    runtime = pytest.importorskip("onnxruntime", reason="an extra: pip install 'fbr[export]'")
    model = untrained.write(place / "net", stage)
    untrained.photographs(place / "photographs", *SIZES, (70, 20), (8, 8))
    assert cli.main(["export", "net", "net.onnx", "photographs"]) == 0
    assert "net.onnx: as torch on 10 images: largest difference" in capsys.readouterr().out
    session = runtime.InferenceSession(place / "net.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == untrained.CLASSES
    network, _ = networks.load(model, torch.device("cpu"))
    whole = exporting.Photographs(
        exporting._Maps(network) if stage.startswith("cam") else exporting.FullSize(network)
    ).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 37, 61, 3), np.uint8)
    (found,) = session.run(None, {"photographs": images})
    with torch.inference_mode():
        expected = whole(torch.from_numpy(images)).numpy()
    assert found.shape == (3, 3 if stage == "seg_train" else 2, 37, 61)
    assert np.allclose(found, expected, atol=1e-4)
    assert expected.std() > 0.01


def test_a_network_of_several_scales_gives_what_torch_gives():
    """Sizes that are counted in the graph, and never a whole number of strides."""
    pytest.importorskip("onnxscript", reason="an extra: pip install 'fbr[export]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install 'fbr[export]'")
    torch.manual_seed(0)
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1], scales=[0.5, 0.75])
    whole = exporting.Photographs(exporting.FullSize(network)).eval()
    rng = np.random.default_rng(0)
    sizes = [(37, 61), (41, 56), (1, 1), (64, 72), (33, 90)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    worst, alike = exporting.compare(whole, exporting._onnx(whole, {}), images)
    assert worst < 1e-3
    assert alike > 0.99


def test_another_networks_scores_are_told_apart(place, monkeypatch, capsys):
    pytest.importorskip("onnxscript", reason="an extra: pip install 'fbr[export]'")
    pytest.importorskip("onnxruntime", reason="an extra: pip install 'fbr[export]'")
    untrained.write(place / "net", "seg_train")
    real = exporting._onnx

    def shifted(whole, facts):
        content = real(whole, facts)
        with torch.no_grad():
            whole.network.network.head.branches[0].bias[0] += 1
        return content

    monkeypatch.setattr(exporting, "_onnx", shifted)
    assert cli.main(["export", "net", "net.onnx"]) == 2
    assert "net.onnx: not written: on 10 images, largest difference" in capsys.readouterr().err
    assert not (place / "net.onnx").exists()


def test_without_onnx_it_is_refused(place, monkeypatch, capsys):
    untrained.write(place / "net", "seg_train")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["export", "net", "net.onnx"]) == 2
    said = "fbr: export needs onnx, onnxscript, onnxruntime, not found; pip install 'fbr[export]'"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (place / "net.onnx").exists()


def test_an_instance_network_is_refused(place, capsys):
    untrained.write(place / "net", "wsis_train")
    assert cli.main(["export", "net", "net.onnx"]) == 2
    assert "expected one of seg_train, cam_train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nett", "net.onnx"), "nett: found no network, expected"),
        (("net", "net.onnx", "fotos"), "fotos: found no such file, expected"),
    ],
)
def test_what_is_not_there_is_refused(place, capsys, words, said):
    untrained.write(place / "net", "seg_train")
    assert cli.main(["export", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"fbr: {said}")
