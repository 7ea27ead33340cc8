"""A training step of every CAM method beside the passes of its network alone, and with FBR.

The passes: forward of the backbone, once a view, and of every layer with weights behind it, on what
they are given in a step, and backward where the step's gradient comes by; no loss, no optimiser.
Each method has a process of its own, for its memory: first without FBR, then with it, which takes
more; with FBR a step is shown in times the step without, and in times its passes, the projections
among them.

    python -m benchmarks.cam_methods [--full]

--full: MobileNet-V2 on crops of 225 pixels in place of the toy world's network and images.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import resident
from benchmarks.fbr_step import DEVICE, SETTINGS, batch_of, timed, trainer
from fbr.nets.aspp import Aspp
from fbr.nets.precision import autocast

METHODS = ("plain", "eps", "amn", "seam", "ppc_seam", "ppc_eps")
LAYERS = (nn.Conv2d, nn.Linear, Aspp)
LARGE = {"crop": 225, "batch": 16}


class Measured(NamedTuple):
    """Of one method: milliseconds of its step and of its passes, and megabytes at the most."""

    step: float
    passes: float
    memory: float
    images: int


def both(name: str, full: bool) -> tuple[Measured, Measured]:
    """Without FBR, and with it."""
    return measured(name, full), measured(f"{name}_fbr", full)


def measured(name: str, full: bool) -> Measured:
    recipe = recipe_of(name, full)
    batch = batch_of(recipe.crop, recipe.batch)
    network, step = trainer(recipe, batch, recipe.fbr)
    step()  # the parts that are made when first asked for
    calls = recorded(network, step)
    memory = resident("VmHWM") if DEVICE.type == "cpu" else torch.cuda.max_memory_allocated() / 1e6
    times = timed(7 if full else 5, step, lambda: replay(calls), warm=1)
    return Measured(*times, memory, recipe.batch)


def recipe_of(name: str, full: bool):
    stage = "amn_train" if name.startswith("amn") else "cam_train"
    recipe = SETTINGS.of(stage, {"cam": name, "amn": name, "data": "toy"})
    if not full:
        return recipe
    spec = {"name": "mobilenet_v2", "stride": 16, "freeze": 3, "weights": "none"}
    options = dict(recipe.options)
    if "view" in options:
        options |= {"view": 96, "level_widths": [32, 64]}
    return recipe.model_copy(
        update=LARGE | {"network": recipe.network.model_copy(update=spec), "options": options}
    )


class Call(NamedTuple):
    """One pass in a step: a layer, what it was called by and given, and where gradients went.

    inward: whether what it was given has one. reached: not empty once its result had one.
    """

    layer: nn.Module
    call: Callable
    given: Tensor
    inward: bool
    reached: list[bool]


def recorded(network, step) -> list[Call]:
    """What layers with weights were given in one step."""
    inside = set(network.backbone.modules())
    inside |= {part for m in network.modules() if isinstance(m, Aspp) for part in m}
    watched = [m for m in network.modules() if isinstance(m, LAYERS) and m not in inside]
    calls = []

    def note(layer, given, seen, call=None):
        calls.append(Call(layer, call or layer, given[0].detach(), given[0].requires_grad, []))
        reached = calls[-1].reached
        for end in ends(seen):
            end.register_hook(lambda _: reached.append(True))

    handles = [m.register_forward_hook(note) for m in (network.backbone, *watched)]
    if (background := network.background) is not None:
        project = background.project  # two layers as one product, which no hook would see

        def noted(features):
            seen = project(features)
            note(background, [features], seen, project)
            return seen

        background.project = noted
    step()
    if background is not None:
        del background.project
    for handle in handles:
        handle.remove()
    return calls


def ends(seen: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Of what a layer makes, all that a gradient can come to."""
    return [end for end in ([seen] if isinstance(seen, Tensor) else seen) if end.requires_grad]


def replay(calls: list[Call]):
    """Each layer forward and backward by itself; of a backbone, the last level has the gradient."""
    for layer, call, given, inward, reached in calls:
        layer.zero_grad()
        with autocast(DEVICE.type, True):
            seen = call(given.requires_grad_(inward))
        if reached:
            last = ends(seen)[-1:] if call is layer else ends(seen)  # levels, or two projections
            torch.autograd.backward(last, [torch.ones_like(end) for end in last])
        given.requires_grad_(False)


def main(full=False):
    """Print a row a method."""
    recipe = recipe_of("plain", full)
    print(
        f"{DEVICE.type}, {torch.get_num_threads()} threads, {recipe.network.name}, "
        f"batch {recipe.batch}, crop {recipe.crop}; ms"
    )
    print(f"{'':<12}{'passes':>8}{'step':>8}{'times':>7}{'img/s':>8}{'MB':>7}   with FBR", end="")
    print(f"{'times':>12}{'passes':>8}{'img/s':>8}{'MB':>7}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        for name in METHODS:
            alone, carried = fresh.submit(both, name, full).result()
            print(
                f"{name:<12}{alone.passes:8.0f}{alone.step:8.0f}{alone.step / alone.passes:7.2f}"
                f"{1000 * alone.images / alone.step:8.1f}{alone.memory:7.0f}"
                f"{carried.step:11.0f}{carried.step / alone.step:12.2f}"
                f"{carried.step / carried.passes:8.2f}"
                f"{1000 * carried.images / carried.step:8.1f}{carried.memory:7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
