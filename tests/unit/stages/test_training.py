"""What the training stages have in common: first weights, images, and the description written."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from fbr.datasets.transforms import NEAREST
from fbr.errors import Refusal
from fbr.files import weights
from fbr.nets import backbones
from fbr.nets.backbones import FrozenStatistics
from fbr.params import Jitter, Network
from fbr.stages import networks, training
from tests.unit.stages.conftest import ENTRIES

SMALL = Network(name="small", stride=8, weights="none")


def values(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten().float() for v in network.state_dict().values()])


def test_first_weights_are_those_of_the_seed(job):
    one, again = (values(training.backbone(job("cam_train"), SMALL)) for _ in range(2))
    other = values(training.backbone(job("cam_train", seed="s2"), SMALL))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_weights_of_the_cam_network_are_taken_with_their_statistics(job):
    made = job("seg_train")
    cam = networks.cam_method("plain", training.backbone(job("cam_train"), SMALL), 2, {})
    cam.backbone.levels[0][1].running_mean.fill_(0.25)
    weights.write(made.path("cam_train", "model"), cam)
    found = training.backbone(made, SMALL.model_copy(update={"weights": "cam"}))
    assert torch.equal(values(found), values(cam.backbone))
    norms = [m for m in found.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(isinstance(m, FrozenStatistics) for m in norms)


def test_what_batch_norm_keeps_can_be_said(job):
    made = job("seg_train")
    cam = networks.cam_method("plain", training.backbone(job("cam_train"), SMALL), 2, {})
    weights.write(made.path("cam_train", "model"), cam)
    live = SMALL.model_copy(update={"weights": "cam", "keep_norm": []})
    kept = SMALL.model_copy(update={"keep_norm": ["statistics", "affine"]})
    for network, frozen in ((live, False), (kept, True)):
        found = training.backbone(made, network)
        norms = [m for m in found.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert {isinstance(m, FrozenStatistics) for m in norms} == {frozen}
        assert {m.weight.requires_grad for m in norms} == {not frozen}


def test_the_cam_network_may_be_of_another_architecture(job):
    made = job("seg_train")
    cam = networks.cam_method("plain", backbones.build("mobilenet_v2", 8), 2, {})
    weights.write(made.path("cam_train", "model"), cam)
    with pytest.raises(Refusal, match=r"model.safetensors: weights of another architecture"):
        training.backbone(made, SMALL.model_copy(update={"weights": "cam"}))


def test_weights_may_be_a_file(job, tmp_path):
    torch.manual_seed(0)
    weights.write(tmp_path / "w.safetensors", backbones.models.mobilenet_v2(weights=None))
    network = Network(name="mobilenet_v2", stride=16, weights="w.safetensors")
    assert training.backbone(job("cam_train"), network)
    with pytest.raises(
        Refusal, match=r"weights: found 'nothing.safetensors', expected none, imagenet"
    ):
        training.backbone(
            job("cam_train"), network.model_copy(update={"weights": "nothing.safetensors"})
        )


def test_a_file_must_hold_the_share_asked_for(job, tmp_path):
    half = dict(backbones.models.mobilenet_v2(weights=None).features[:12].state_dict())
    state = {f"features.{key}": value for key, value in half.items()}
    (tmp_path / "half.safetensors").write_bytes(save(state))
    network = Network(name="mobilenet_v2", stride=16, weights="half.safetensors")
    said = r"^params.yaml: cam.plain.toy.cam_train.network: weights: \d+ of 260 tensors matched"
    with pytest.raises(Refusal, match=said):
        training.backbone(job("cam_train"), network)
    assert training.backbone(job("cam_train"), network.model_copy(update={"least_matched": 0.5}))


@pytest.mark.parametrize("stage", ["cam_train", "amn_train"])
def test_a_cam_cannot_start_from_itself(job, stage):
    with pytest.raises(Refusal, match="weights: found 'cam', expected none"):
        training.backbone(job(stage, cam="amn"), SMALL.model_copy(update={"weights": "cam"}))


def test_imagenet_weights_that_cannot_be_fetched_are_refused(job, monkeypatch):
    def offline(*args: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(backbones.models, "mobilenet_v2", offline)
    with pytest.raises(Refusal, match=r"of mobilenet_v2 could not be fetched \(no route to host\)"):
        training.backbone(
            job("cam_train"), Network(name="mobilenet_v2", stride=16, weights="imagenet")
        )


def test_an_image_is_read_once_and_cut_with_what_lies_over_it(job):
    made, read = job("cam_train"), []
    crop = made.numbers.crop

    def more(entry):
        read.append(entry.id)
        return {"mask": made.data.image(entry)[..., 0]}

    source = training.images(
        made, ENTRIES[:2], lambda s, cut: {"mask": cut.apply(s["mask"], NEAREST, 0)}, more
    )
    assert source.ids == ["a", "b"]
    samples = [source.sample(1, np.random.default_rng(seed)) for seed in range(4)]
    assert read == ["b"]
    for sample in samples:
        assert sample["image"].shape == (crop, crop, 3)
        padded = (sample["image"] == training.PADDING).all(-1)
        assert padded.any()
        assert (sample["mask"][padded] == 0).mean() > 0.99
        # The mask is the red channel: resampled otherwise, it lies on the same place.
        differ = np.abs(sample["mask"].astype(int) - sample["image"][..., 0])[~padded]
        assert np.median(differ) < 40
    assert not np.array_equal(samples[0]["image"], samples[1]["image"])


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_an_image_is_resized_as_the_recipe_says(job, resample):
    made, cuts = job("cam_train"), []
    made.numbers = made.numbers.model_copy(update={"resample": resample})
    source = training.images(made, ENTRIES[:2], lambda s, cut: cuts.append(cut) or {})
    found = source.sample(1, np.random.default_rng(0))["image"]
    how = Image.Resampling[resample.upper()]
    expected = cuts[0].apply(made.data.image(ENTRIES[1]), how, training.PADDING)
    assert np.array_equal(found, expected)


def test_colours_move_and_nothing_else_does(job):
    def samples(jitter):
        made = job("cam_train")
        made.numbers = made.numbers.model_copy(update={"jitter": jitter})
        source = training.images(
            made, ENTRIES[:2], lambda s, cut: {"red": cut.apply(s["image"][..., 0], NEAREST, 0)}
        )
        return [source.sample(1, np.random.default_rng(seed)) for seed in range(4)]

    moved = samples(Jitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1))
    still = samples(Jitter(brightness=0, contrast=0, saturation=0, hue=0))
    for one, other, none in zip(moved, still, samples(None), strict=True):
        padded = (none["image"] == training.PADDING).all(-1)
        assert padded.any()
        assert (one["image"][padded] == training.PADDING).mean() > 0.99
        assert np.abs(one["image"].astype(int) - none["image"])[~padded].mean() > 5
        # By way of hue and saturation in 255 steps, and of resampling.
        assert np.abs(other["image"].astype(int) - none["image"]).max() <= 8
        assert np.array_equal(one["red"], none["red"])


def test_a_sample_knows_its_index(job):
    source = training.images(job("cam_train"), ENTRIES[:2], lambda s, cut: {"index": s["index"]})
    assert [int(source.sample(i, np.random.default_rng(0))["index"]) for i in (1, 0)] == [1, 0]


def test_a_model_is_described_well_enough_to_build_it(job, numbers):
    made = job("cam_train")
    described = training.describe(made, "0123")
    assert described["stage"] == "cam_train"
    assert described["first_weights"] == "0123"
    assert described["classes"] == ["background", "cat", "dog"]
    assert described["network"]["name"] == made.numbers.network.name
    assert {"method", "options", "steps", "lr"} <= described.keys()


@pytest.mark.parametrize("factor", [None, 2.0])
def test_biases_of_convolutions_can_learn_faster_and_without_decay(job, factor):
    head = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    body = torch.nn.Conv2d(4, 3, 1)
    network = torch.nn.Sequential(body, head, torch.nn.Conv2d(4, 2, 1, bias=False))
    update = {"lr": 0.1, "head_lr": 1.0, "bias_lr": factor}
    found = training.groups(network, [head], job("seg_train").numbers.model_copy(update=update))
    rates = {id(p): g["lr"] for g in found for p in g["params"]}
    decayed = {id(p): "weight_decay" not in g for g in found for p in g["params"]}
    assert rates.keys() == {id(p) for p in network.parameters()}
    for conv, lr in ((body, 0.1), (head[0], 1.0)):
        assert (rates[id(conv.weight)], rates[id(conv.bias)]) == (lr, (factor or 1) * lr)
        assert (decayed[id(conv.weight)], decayed[id(conv.bias)]) == (True, factor is None)
    assert rates[id(head[1].bias)] == 1.0
    assert found[0]["lr"] == 0.1
