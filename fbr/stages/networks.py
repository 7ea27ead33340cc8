"""Trained networks, built again from the model.json beside their weights."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fbr.cam import CAM
from fbr.cam.fbr import Background
from fbr.errors import Refusal, chosen
from fbr.files import weights
from fbr.nets import backbones
from fbr.nets.detectors import DETECTORS
from fbr.nets.heads import Segmenter
from fbr.nets.irn import AffinityNet
from fbr.nets.psa import PairFeatures
from fbr.params import Fbr, check
from fbr.stages import given


def cam_method(
    name: str,
    backbone: nn.Module,
    classes: int,
    options: dict,
    fbr: Fbr | None = None,
    where: str = "model.json",
) -> nn.Module:
    """A CAM method by name, its numbers checked by the model in its file, with FBR or without."""
    method = chosen(CAM, name, "method")
    built = method(backbone, classes, check(options, method.Options, f"{where}.options"))
    return built if fbr is None else built.carry(Background(built.width, classes, fbr))


def detector(backbone: nn.Module, numbers: Any, classes: int, **limits: float) -> nn.Module:
    """An instance network by name; `numbers` is its recipe."""
    build = chosen(DETECTORS, numbers.head, "head")
    sizes = (numbers.anchors, numbers.proposals, numbers.width, numbers.crop)
    return build(backbone, classes, *sizes, **limits)


def segmenter(backbone: nn.Module, numbers: dict, classes: int) -> Segmenter:
    """A segmentation network by its recipe; an older one lacks what came later."""
    more = {key: numbers[key] for key in ("width", "dropout") if key in numbers}
    scales = numbers.get("input_scales", [])
    return Segmenter(backbone, numbers["head"], classes, numbers["rates"], **more, scales=scales)


class _Description(dict):
    """A model.json whose keys read as attributes, like the params block it came from."""

    __getattr__ = dict.__getitem__


def load(model: Path, device: torch.device, **limits: float) -> tuple[nn.Module, dict]:
    """Build the network of model.json, fill it from model.safetensors, ready for inference."""
    file = model.with_name("model.json")
    described = _Description(given.described(model))
    try:
        spec = described["network"]
        classes = len(described["classes"])
        dilate = spec.get("dilate", True)  # an older one lacks it
        backbone = backbones.build(spec["name"], spec["stride"], spec["freeze"], dilate=dilate)
        match described["stage"]:
            case "cam_train" | "amn_train":
                fbr = described["fbr"] and check(described["fbr"], Fbr, "model.json")
                method, options = described["method"], described["options"]
                network = cam_method(method, backbone, classes - 1, options, fbr)
            case "irn_train":
                network = AffinityNet(backbone, backbone.channels, described["width"])
            case "psa_train":
                network = PairFeatures(backbone, backbone.channels, described["width"])
            case "seg_train":
                network = segmenter(backbone, described, classes)
            case "wsis_train":
                network = detector(backbone, described, classes, **limits)
            case other:
                raise Refusal(f"{file}: found stage '{other}', expected one that trains a network")
    except KeyError as error:
        raise Refusal(f"{file}: no {error} in it; it describes no network, train again") from None
    weights.fill(network, weights.read(model), model)
    return network.to(device, memory_format=torch.channels_last).eval(), described
