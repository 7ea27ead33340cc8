"""Trained networks, built again from what lies beside their weights."""

import pytest
import torch
from torch import nn

from fbr.errors import Refusal
from fbr.files import weights
from fbr.files.tables import write_json
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.nets.irn import AffinityNet
from fbr.nets.psa import PairFeatures
from fbr.stages import networks
from tests.reference import numbers

CPU = torch.device("cpu")
AMN = {"rates": [1, 2], "deviation": 0.01, "dropout": 0.1, "smoothing": 0.4}
SMALL = {"name": "small", "stride": 8, "weights": "none", "freeze": 0}


def backbone() -> nn.Module:
    torch.manual_seed(3)
    return backbones.build("small", 8)


def described(stage: str, **more) -> dict:
    return {"stage": stage, "classes": ["background", "cat", "dog"], "network": SMALL} | more


def irn() -> nn.Module:
    made = backbone()
    return AffinityNet(made, made.channels, 8)


def psa() -> nn.Module:
    made = backbone()
    return PairFeatures(made, made.channels, 8)


PPC, BANKS = numbers.ppc(projection=None), numbers.fbr(bank_each_view=True)
BUILT = {
    "cam_train": (
        lambda: networks.cam_method("plain", backbone(), 2, {}, None),
        described("cam_train", method="plain", options={}, fbr=None),
    ),
    "cam_train with fbr": (
        lambda: networks.cam_method("plain", backbone(), 2, {}, numbers.fbr()),
        described("cam_train", method="plain", options={}, fbr=numbers.fbr().model_dump()),
    ),
    "amn_train": (
        lambda: networks.cam_method("amn", backbone(), 2, AMN, None),
        described("amn_train", method="amn", options=AMN, fbr=None),
    ),
    "cam_train of two views": (
        lambda: networks.cam_method("ppc", backbone(), 2, PPC, BANKS),
        described("cam_train", method="ppc", options=PPC, fbr=BANKS.model_dump()),
    ),
    "irn_train": (irn, described("irn_train", width=8)),
    "psa_train": (psa, described("psa_train", width=8)),
    "seg_train": (
        lambda: Segmenter(backbone(), "deeplabv2", 3, [1, 2]),
        described("seg_train", head="deeplabv2", rates=[1, 2]),
    ),
    "seg_train with more": (
        lambda: Segmenter(backbone(), "ocr", 3, width=16, dropout=0.1, scales=[0.5]),
        described("seg_train", head="ocr", rates=None, width=16, dropout=0.1, input_scales=[0.5]),
    ),
}


@pytest.fixture
def written(tmp_path):
    """Write a network and its description as a training stage does."""

    def written(network: nn.Module, description: dict):
        model = tmp_path / "model.safetensors"
        weights.write(model, network)
        write_json(tmp_path / "model.json", description)
        return model

    return written


@pytest.mark.parametrize("stage", BUILT)
def test_a_network_comes_back_ready_for_inference(written, stage):
    build, description = BUILT[stage]
    network = build()
    found, read = networks.load(written(network, description), CPU)
    assert type(found) is type(network)
    assert read == description
    assert not found.training
    assert all(map(torch.equal, network.state_dict().values(), found.state_dict().values()))


def test_a_network_of_timm_comes_back(written):
    pytest.importorskip("timm", reason="timm is an extra: pip install 'fbr[timm]'")
    spec = SMALL | {"name": "timm/convnext_atto", "stride": 16}
    network = Segmenter(backbones.build(spec["name"], spec["stride"]), "deeplabv2", 3, [1])
    description = described("seg_train", head="deeplabv2", rates=[1], network=spec)
    found, _ = networks.load(written(network, description), CPU)
    images = torch.randn(1, 3, 37, 41)
    with torch.inference_mode():
        assert torch.equal(found(images), network.eval()(images))


def test_a_detector_comes_back_with_its_limits(written, job):
    numbers = job("wsis_train", inst="maskrcnn").numbers.model_copy(
        update={"proposals": 8, "width": 8, "crop": 32}
    )
    network = networks.detector(backbone(), numbers, 3)
    fields = {
        "head": "maskrcnn",
        "anchors": numbers.anchors,
        "proposals": 8,
        "width": 8,
        "crop": 32,
    }
    model = written(network, described("wsis_train", **fields))
    found, _ = networks.load(model, CPU, score=0.5, detections=7)
    assert found.roi_heads.score_thresh == 0.5
    assert found.roi_heads.detections_per_img == 7
    assert torch.equal(network.rpn.head.conv[0][0].weight, found.rpn.head.conv[0][0].weight)


def test_a_checkpoint_of_another_architecture_is_refused(written):
    network = BUILT["cam_train"][0]()
    description = BUILT["cam_train"][1] | {"classes": ["background", "cat"]}
    with pytest.raises(
        Refusal, match=r"model.safetensors: weights of another architecture: .*1 of"
    ):
        networks.load(written(network, description), CPU)
    wrong = BUILT["seg_train"][1]
    with pytest.raises(Refusal, match=r"weights of another architecture: 4 of \d+ tensors missing"):
        networks.load(written(network, wrong), CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": "prepare"}, "found stage 'prepare', expected one that trains a network"),
        ({"method": "plian"}, "found 'plian', expected one of plain.* Did you mean 'plain'"),
        ({"network": SMALL | {"name": "smal"}}, "network: found 'smal', .* Did you mean 'small'"),
        ({"options": {"size": 3}}, "unknown key 'size'"),
        ({"fbr": {"mode": "released"}}, r"model.json: \w+: missing"),
    ],
)
def test_another_description_is_refused(written, change, said):
    build, description = BUILT["cam_train"]
    with pytest.raises(Refusal, match=said):
        networks.load(written(build(), description | change), CPU)


@pytest.mark.parametrize("missing", ["stage", "classes", "network", "method"])
def test_half_a_description_is_refused(written, missing):
    build, description = BUILT["cam_train"]
    half = {k: v for k, v in description.items() if k != missing}
    with pytest.raises(Refusal, match=f"model.json: no '{missing}' in it"):
        networks.load(written(build(), half), CPU)


def test_what_is_no_description_is_refused(written):
    build, _ = BUILT["cam_train"]
    with pytest.raises(Refusal, match=r"model.json: no 'stage' in it; it describes no network"):
        networks.load(written(build(), []), CPU)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_refused(written, name):
    model = written(*(part() if callable(part) else part for part in BUILT["cam_train"]))
    model.with_name(name).unlink()
    with pytest.raises(Refusal, match=f"{name}: missing"):
        networks.load(model, CPU)


def test_an_unknown_detector_is_refused_with_the_nearest(job):
    numbers = job("wsis_train", inst="maskrcnn").numbers.model_copy(update={"head": "maskrcn"})
    with pytest.raises(Refusal, match=r"head: found 'maskrcn', .* Did you mean 'maskrcnn'"):
        networks.detector(backbone(), numbers, 3)
