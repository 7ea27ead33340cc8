"""DeepLab-V2's training step and its inference, each against the bare network's passes.

What a step adds are colours, loss, optimiser and learning rate; what inference adds are scales,
flips, scores at the size of the image and their mean. The smaller the network, the more they weigh.

    python -m benchmarks.segmentation [--full]

--full: ResNet-101 as VOC's recipe has it, two images a step, which takes minutes on a CPU.
"""

import sys
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import numpy as np
import torch
from scipy.ndimage import zoom
from torch.nn import functional as F

from fbr import params
from fbr.nets import backbones
from fbr.nets.inputs import normalise
from fbr.nets.precision import autocast
from fbr.params import Way
from fbr.stages import training
from fbr.stages.networks import segmenter
from fbr.stages.seg_train import SegmentationTask
from fbr.stages.segmenting import applied, segment
from fbr.train import loop
from fbr.train.processes import joined

SETTINGS = params.load()
CLASSES = {"toy": 7, "voc": 21}
SIZE = (375, 500)  # most of VOC's


def recipe(data, **changes):
    return SETTINGS.of("seg_train", {"seg": "deeplabv2", "data": data}).model_copy(update=changes)


def small(network):
    return network.model_copy(update={"name": "small", "weights": "none", "keep_norm": None})


def network_of(numbers, data):
    """The network of a recipe, its weights random."""
    torch.manual_seed(0)
    asked = numbers.network
    backbone = backbones.build(asked.name, asked.stride, asked.freeze, None, asked.keep_norm)
    return segmenter(backbone, numbers.model_dump(), CLASSES[data])


def batch_of(numbers, data):
    """Photographs of noise, masks of blocks, a tenth of them void."""
    rng = np.random.default_rng(0)
    shape = (numbers.batch, numbers.crop, numbers.crop)
    coarse = rng.choice([*range(CLASSES[data]), 255], (numbers.batch, 10, 10)).astype(np.uint8)
    grid = np.arange(numbers.crop) * 10 // numbers.crop
    images = rng.integers(0, 256, (*shape, 3), np.uint8)
    return {
        "image": torch.from_numpy(images),
        "mask": torch.from_numpy(coarse[:, grid][:, :, grid]),
    }


def timed(steps, *calls):
    """Median milliseconds of each call after its first; they take turns."""
    spent = [[] for _ in calls]
    for _ in range(1 + steps):
        for call, times in zip(calls, spent, strict=True):
            start = perf_counter()
            call()
            times.append(1000 * (perf_counter() - start))
    return [median(times[1:]) for times in spent]


@contextmanager
def stepping(numbers, data):
    """The loop's own step on one batch, and the bare network's forward and backward on the same."""
    with joined(torch.get_num_threads()) as processes:
        network, batch = network_of(numbers, data), batch_of(numbers, data)
        task = SegmentationTask(network, numbers.loss, numbers.loss_options)
        task.to(processes.device, memory_format=torch.channels_last).train()
        optimizer = loop._optimizer(training.groups(task, [network.head], numbers), numbers)
        run = loop._Run(task, optimizer, numbers, processes, lambda step: [], 0)
        images = normalise(batch["image"].to(processes.device))

        def step():
            run.one_step([batch])
            run.close_interval()  # reads the losses, so waits for the device

        def bare():
            with autocast(processes.device.type, numbers.bfloat16):
                outputs = network.outputs(images)
            sum(scores.logits.float().mean() for scores in outputs.values()).backward()
            network.zero_grad()

        yield step, bare


def show_training(name, numbers, data, steps):
    with stepping(numbers, data) as (step, bare):
        whole, least = timed(steps, step, bare)
    rate = 1000 * numbers.batch / whole
    print(
        f"{name:<34}{numbers.batch:>6}{numbers.crop:>6}{rate:>10.1f}"
        f"{1000 * numbers.batch / least:>10.1f}{whole / least:>8.2f}"
    )


def show_inference(name, numbers, data, size, way, steps):
    coarse = np.random.default_rng(0).random((26, 34, 3), np.float32)
    image = (255 * zoom(coarse, (size[0] / 26, size[1] / 34, 1), order=1)).astype(np.uint8)[None]
    with joined(torch.get_num_threads()) as processes, torch.inference_mode():
        place = processes.device
        network = network_of(numbers, data).to(place, memory_format=torch.channels_last).eval()
        whole = normalise(torch.from_numpy(image).to(place))
        views = [
            F.interpolate(whole, scale_factor=scale, mode="bilinear").repeat(1 + way.flip, 1, 1, 1)
            for scale in way.scales
        ]
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        predicting = applied(network, SETTINGS.seg["deeplabv2"]["voc"].seg_eval)

        def bare():
            with autocast(place.type, numbers.bfloat16):
                return [network(view).float().cpu() for view in views]

        def predict():
            segment(predicting, image, [way], numbers.bfloat16)

        ours, least = timed(steps, predict, bare)
    looks = len(way.scales) * (1 + way.flip)
    print(
        f"{name:<34}{looks:>6}{size[1]:>6}{1000 / ours:>10.2f}{1000 / least:>10.2f}"
        f"{ours / least:>8.2f}"
    )


def main(full=False):
    """Print two tables; networks are small unless all is asked for."""
    voc = recipe("voc")
    cases = {
        "toy's recipe": (recipe("toy"), "toy", 5),
        "VOC's losses, small network": (
            recipe("voc", network=small(voc.network), batch=4, crop=161),
            "voc",
            5,
        ),
    }
    if full:
        cases["VOC's recipe, ResNet-101"] = (recipe("voc", batch=2), "voc", 2)
    print(f"{torch.get_num_threads()} threads; images/s\n{'training':<34}", end="")
    print(f"{'batch':>6}{'side':>6}{'a step':>10}{'passes':>10}{'ratio':>8}")
    for name, (numbers, data, steps) in cases.items():
        show_training(name, numbers, data, steps)
    scales = SETTINGS.of("seg_eval", {"seg": "deeplabv2", "data": "voc"}).scales
    ways = {
        "one scale": Way(scales=[1.0], flip=False, crf=None),
        "many, flipped": Way(scales=scales, flip=True, crf=None),
    }
    print(f"\n{'inference':<34}{'looks':>6}{'width':>6}{'whole':>10}{'passes':>10}{'ratio':>8}")
    for name, way in ways.items():
        plain = recipe("voc", network=small(voc.network), input_scales=[])
        show_inference(f"{name}, small network", plain, "voc", SIZE, way, 3)
        if full:
            show_inference(f"{name}, VOC's ResNet-101", voc, "voc", SIZE, way, 1)


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
