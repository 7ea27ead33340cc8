"""What the training stages have in common: weights in, one fit, three files out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fbr.datasets.loader import Decoded, Sample
from fbr.datasets.prepared import VOID, Entry
from fbr.datasets.transforms import (
    NEAREST,
    SMOOTH,
    Geometry,
    RandomColours,
    RandomGeometry,
    RandomShift,
)
from fbr.errors import Refusal
from fbr.files import weights
from fbr.files.tables import write_csv, write_json
from fbr.masks.affinity import PairLabels, pair_labels
from fbr.nets import backbones
from fbr.nets.precision import has_bfloat16
from fbr.params import Network, Training
from fbr.positions import Positions
from fbr.stages.job import Job, log
from fbr.train.loop import Images, Upkeep, fit
from fbr.train.processes import Processes

PADDING = np.array([124, 116, 104], np.uint8)  # ImageNet's mean: zero after normalising
Draw = Callable[[Sample, Geometry], Sample]


def backbone(job: Job, network: Network) -> backbones.Backbone:
    """The recipe's backbone with its first weights; what is built from now on takes the seed."""
    torch.manual_seed(job.seed)
    try:
        return _backbone(job, network)
    except Refusal as refusal:
        raise Refusal(f"params.yaml: {job.section}.network: {refusal}") from None


def _backbone(job: Job, network: Network) -> backbones.Backbone:
    if network.weights == "cam" and job.path("cam_train", "model") != job.out("model"):
        return _of_cam(job, network)
    if network.weights not in ("none", "imagenet"):
        path = job.workspace.root / network.weights
        if not path.is_file():
            raise Refusal(
                f"weights: found '{network.weights}', expected none, imagenet, a "
                "safetensors file, or, behind cam_train, cam"
            )
        return _built(network, weights.read(path))
    try:
        return _built(network, None if network.weights == "none" else network.weights)
    except OSError as error:
        raise Refusal(
            f"ImageNet weights of {network.name} could not be fetched ({error}); name a local "
            "safetensors file as `weights`"
        ) from None


def _of_cam(job: Job, network: Network) -> backbones.Backbone:
    """The backbone of the CAM network of the same path, with its statistics."""
    path = job.path("cam_train", "model")
    keep = ["statistics"] if network.keep_norm is None else network.keep_norm
    built = _built(network.model_copy(update={"keep_norm": keep}), None)
    state = weights.read(path)
    prefix = "backbone."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    weights.fill(built, own, path)
    return built


def _built(network: Network, first: backbones.Weights) -> backbones.Backbone:
    """The network of a recipe, filled with these weights."""
    return backbones.build(
        network.name,
        network.stride,
        network.freeze,
        first,
        network.keep_norm,
        network.least_matched,
        network.dilate,
    )


def random_geometry(training: Training) -> RandomGeometry:
    """What the recipe draws its crops from."""
    asked = training.scale, training.long_side
    ranges = [r and (r.one_of or (r.low, r.high)) for r in asked]
    return RandomGeometry(training.crop, *ranges, training.flip)


def images(
    job: Job,
    entries: list[Entry],
    draw: Draw,
    more: Callable[[Entry], Sample] = lambda entry: {},
) -> Images:
    """Read each image once, cut a random crop from it, and let `draw` cut what lies over it."""
    geometry, jitter, shift = random_geometry(job.numbers), job.numbers.jitter, job.numbers.shift
    smooth = SMOOTH[job.numbers.resample]
    colours = jitter and RandomColours(**jitter.model_dump())
    colours = RandomShift(shift.levels) if shift else colours
    decoded = Decoded(lambda i: {"image": job.data.image(entries[i]), **more(entries[i])})

    def sample(index: int, rng: np.random.Generator) -> Sample:
        arrays = decoded[index]
        cut = geometry.draw(rng, *arrays["image"].shape[:2])
        image = arrays["image"]
        if colours:  # before the crop, so that contrast is about the whole image, without padding
            image = colours.draw(rng).apply(image)
        image = cut.apply(image, smooth, PADDING)
        return {"image": image, **draw({**arrays, "index": np.array(index)}, cut)}

    return Images([e.id for e in entries], sample)


def seeded(job: Job, entries: list[Entry], seeds: Path) -> Images:
    """Crops of images and of the seeds in this folder, unsure where a crop sticks out."""
    return images(
        job,
        entries,
        lambda sample, cut: {"seeds": cut.apply(sample["seeds"], NEAREST, VOID)},
        lambda entry: {"seeds": job.data.ids(seeds / f"{entry.id}.png", entry)},
    )


def pairs(seeds: Tensor, grid: Tensor, positions: Positions, radius: int) -> PairLabels:
    """The pairs of seeds (B, H, W) where a map (B, C, h, w) has its positions."""
    return pair_labels(positions.nearest(seeds, grid.shape[2:]).long(), radius)


def train(
    job: Job,
    processes: Processes,
    network: nn.Module,
    heads: list[nn.Module],
    source: Images,
    inputs: list[Path],
    kept: nn.Module | None = None,
    finish: Callable[[], None] = lambda: None,
    judge: Callable[[], float] | None = None,
) -> None:
    """Fit, then write model.safetensors, model.json and history.csv.

    network: its forward gives losses. heads: modules that start from nothing and take `head_lr`;
    the rest takes `lr`. inputs: what the work depends on besides the numbers. kept: the part whose
    weights are written, if not all. finish: last touches to them. judge: see `fit`.
    """
    numbers: Training = job.numbers
    upkeep = Upkeep(
        name=job.stage,
        state=job.state,
        key=job.key(*inputs),
        checkpoint_minutes=job.params.machine.checkpoint_minutes,
        loader_threads=job.params.machine.loader_threads,
        on_log=lambda step, row: job.run.metrics({k: row[k] for k in row if k != "step"}, step),
    )
    count = sum(p.numel() for p in network.parameters())
    lacking = numbers.bfloat16 and not has_bfloat16(processes.device.type)
    log.info(
        "%s: %d images, %.2f M parameters, %s%s",
        job.stage,
        len(source.ids),
        count / 1e6,
        processes.device,
        " in float32, it has no bfloat16" if lacking else "",
    )
    parameters, first = groups(network, heads, numbers), _first(network)
    history = fit(network, parameters, source, numbers, job.seed, processes, upkeep, judge)
    if not processes.first:
        return
    finish()
    weights.write(job.out("model"), kept or network)
    write_json(job.out("model.json"), describe(job, first))
    write_csv(job.out("history"), history)


def _first(network: nn.Module) -> str:
    """A digest of the backbone before it trains."""
    found = (part for part in network.modules() if isinstance(part, backbones.Backbone))
    return weights.digest(next(found))


def groups(network: nn.Module, heads: list[nn.Module], numbers: Training) -> list[dict[str, Any]]:
    """Parameters with their learning rates; biases apart, as Caffe has them, if asked for."""
    new = [p for head in heads for p in head.parameters()]
    known = {id(p) for p in new}
    rest = [p for p in network.parameters() if id(p) not in known]
    found = [{"params": rest, "lr": numbers.lr}, {"params": new, "lr": numbers.head_lr}]
    if numbers.bias_lr is None:
        return found
    biases = {id(m.bias) for m in network.modules() if isinstance(m, nn.Conv2d)}
    apart = []
    for group in found:
        lr, own = group["lr"], group["params"]
        apart.append({"params": [p for p in own if id(p) not in biases], "lr": lr})
        own = [p for p in own if id(p) in biases]
        apart.append({"params": own, "lr": numbers.bias_lr * lr, "weight_decay": 0.0})
    return apart


def describe(job: Job, first: str) -> dict:
    """What a model is: enough to build the network again without params.yaml.

    first: a digest of the weights that its backbone began from.
    """
    return {
        "stage": job.stage,
        "classes": job.data.classes,
        "first_weights": first,
        **json.loads(job.numbers.model_dump_json()),
    }
