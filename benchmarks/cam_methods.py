"""A training step of every CAM method beside the passes of its network alone, and with FBR.

The passes: forward and backward of the backbone, once a view, and of every layer with weights
behind it, on what they are given in a step; no loss, no optimiser. Each method has a process of its
own, for its memory: first without FBR, then with it, which takes more; with FBR a step is shown in
times the step without, and in times its passes, the projections among them.

    python -m benchmarks.cam_methods [--full]

--full: MobileNet-V2 on crops of 225 pixels in place of the toy world's network and images.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.fbr_step import DEVICE, SETTINGS, batch_of, resident, timed, trainer
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


def recorded(network, step):
    """What layers with weights were given in one step: (layer, call, input, gradient wanted)."""
    inside = set(network.backbone.modules())
    inside |= {part for m in network.modules() if isinstance(m, Aspp) for part in m}
    watched = [m for m in network.modules() if isinstance(m, LAYERS) and m not in inside]
    calls = []

    def note(layer, given):
        calls.append((layer, layer, given[0].detach(), given[0].requires_grad))

    handles = [m.register_forward_pre_hook(note) for m in (network.backbone, *watched)]
    if (background := network.background) is not None:
        project = background.project  # two layers as one product, which no hook would see

        def noted(features):
            calls.append((background, project, features.detach(), features.requires_grad))
            return project(features)

        background.project = noted
    step()
    if background is not None:
        del background.project
    for handle in handles:
        handle.remove()
    return calls


def replay(calls):
    """Each layer forward and backward by itself; of a backbone, the last level has the gradient."""
    for layer, call, given, wanted in calls:
        layer.zero_grad()
        with autocast(DEVICE.type, True):
            seen = call(given.requires_grad_(wanted))
        if isinstance(seen, Tensor):
            seen = [seen]
        last = seen[-1:] if call is layer else seen  # levels, or the two projections
        ends = [end for end in last if end.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
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
