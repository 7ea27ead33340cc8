"""The training loop of every network: mixed precision, accumulation, several processes, resume.

A network is anything whose forward takes a batch (a dict of tensors) and returns named losses, each
a scalar, a pair (sum, count) whose division is left to the loop, so that the mean runs over all
processes, or a triple (sum, count, k) whose mean's k-th root is the loss; an accumulated part is a
mean of its own. A value without gradient is only watched. The batch also tells `step` and `seed`,
for what depends on time or draws alike in all processes, and at which steps the history is
`logged`: these may have further values.
Nothing random survives from step to step: each step is seeded by its number, so resuming needs no
random states and cannot get them wrong.
"""

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fbr.datasets.loader import Batch, Loader, Order, Sample
from fbr.errors import Refusal
from fbr.nets.inputs import normalise
from fbr.nets.precision import autocast
from fbr.params import Training
from fbr.train import checkpoint
from fbr.train.processes import Processes, share_statistics
from fbr.train.progress import Progress

log = logging.getLogger("fbr")
Losses = dict[str, Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]]
MOMENTS = (0.9, 0.999)


class NotFinite(Refusal):
    """A loss became NaN or infinite: the run stops and names the images of that step."""


@dataclass(frozen=True)
class Images:
    """What a training reads: ids, and a function (index, rng) → arrays of one image."""

    ids: list[str]
    sample: Callable[[int, Any], Sample]


@dataclass(frozen=True)
class Upkeep:
    """Things that never change a result: where the state lies, how often it is saved, threads."""

    name: str
    state: Path
    key: str
    checkpoint_minutes: float
    loader_threads: int
    on_log: Callable[[int, dict[str, float]], None] = lambda step, values: None


def fit(
    network: nn.Module,
    groups: list[dict[str, Any]],
    images: Images,
    training: Training,
    seed: int,
    processes: Processes,
    upkeep: Upkeep,
    judge: Callable[[], float] | None = None,
) -> list[dict[str, float]]:
    """Train `network` in place and return the history: step, learning rate and mean losses.

    groups: parameter groups with their own `lr`. judge: scores the network as it is at the end of
    every epoch; the weights of the best one are what is left, else those of the last step. An
    earlier, interrupted fit of the same work (`upkeep.key`) is continued to the same result, bit
    for bit on the same machine.
    """
    share = processes.share(training.batch, training.accumulate)
    network.to(processes.device, memory_format=torch.channels_last).train()
    if processes.world > 1:
        share_statistics(network)
    order = Order(len(images.ids), seed)

    def seen(step: int) -> list[str]:
        """Ids of a step's images, over all processes."""
        positions = range(step * training.batch, (step + 1) * training.batch)
        return [images.ids[order[position]] for position in positions]

    file = upkeep.state / "checkpoint.pt"
    run = _Run(network, _optimizer(groups, training), training, processes, seen, seed)
    if (state := checkpoint.load(file, upkeep.key)) is not None:
        run.restore(state)
        log.info("%s continues at step %d of %d", upkeep.name, run.step, training.steps)

    def positions(part: int) -> range:
        """Positions of accumulated part `part`: parts run through the global batches in order."""
        first = (part * processes.world + processes.rank) * share
        return range(first, first + share)

    parts = training.accumulate
    loader = Loader(images.sample, order, positions, upkeep.loader_threads)
    batches = loader.batches(run.step * parts, training.steps * parts)
    saved, pause = time.monotonic(), 60 * upkeep.checkpoint_minutes
    shown = Progress(upkeep.name, run.step, training.steps, training.batch, shown=processes.first)
    with shown, _polite_end(processes.first) as asked:
        while run.step < training.steps:
            _seed_step(seed, run.step, processes.rank)
            run.one_step([next(batches) for _ in range(parts)])
            shown.step(run.step)
            if judge is not None and run.epoch_ends(len(images.ids)):
                run.keep_if_best(judge())
            if run.logged(run.step):
                row = run.close_interval()
                values = {k: v for k, v in row.items() if k not in ("step", "lr")}
                shown.losses(run.step, values, row["lr"])
                upkeep.on_log(
                    run.step, row | {"images_per_second": shown.images_per_second(run.step)}
                )
            due = run.step < training.steps and time.monotonic() - saved > pause
            if processes.first and (due or asked()) and run.finite():
                began = time.monotonic()
                checkpoint.save(file, upkeep.key, run.state())
                saved = time.monotonic()
                # Saving takes one part in a hundred of the time, however large the network.
                pause = max(60 * upkeep.checkpoint_minutes, 100 * (saved - began))
            if asked():
                raise SystemExit(128 + asked())
    run.take_best()
    return run.history


class _Run:
    """The moving parts of one training: everything that a checkpoint holds."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: Training,
        processes: Processes,
        seen: Callable[[int], list[str]],
        seed: int,
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.training, self.processes, self.seen = training, processes, seen
        self.seed = seed
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.step = 0
        self.history: list[dict[str, float]] = []
        # Losses of this interval's steps and their names; they stay on the device.
        self._kept: list[tuple[list[str], Tensor]] = []
        self._best: dict[str, Any] = {}
        self._module = _together(network, processes) if processes.world > 1 else network

    def one_step(self, parts: list[Batch]) -> None:
        """Forward and backward of every accumulated part, then one step of the optimiser."""
        self._set_lr()
        total: Tensor | float = 0.0
        for number, batch in enumerate(parts):
            last = number == len(parts) - 1
            alone = self.processes.world == 1
            with nullcontext() if last or alone else self._module.no_sync():
                values = self._losses(batch)
                loss = torch.stack(list(values.values())).sum() / len(parts)
                loss.backward()
            total = total + torch.stack([v.detach().float() for v in values.values()]) / len(parts)
        if self.training.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.training.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._kept.append((list(values), self.processes.sum(total) / self.processes.world))

    def logged(self, steps: int) -> bool:
        """Whether an interval of the history ends when so many steps are done."""
        return steps % self.training.log_every == 0 or steps == self.training.steps

    def epoch_ends(self, images: int) -> bool:
        """Whether the last step saw the last of so many images once more, or was the last."""
        before, now = ((self.step - back) * self.training.batch // images for back in (1, 0))
        return now > before or self.step == self.training.steps

    def keep_if_best(self, score: float) -> None:
        """Keep the weights as they are if they score more than those kept; of equals the first."""
        best = self._best.get("score", -math.inf)
        log.info("step %d scores %.4f, the best before it %.4f", self.step, score, best)
        if score > best:
            weights = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
            self._best = {"score": score, "network": weights}
        self.network.train()

    def take_best(self) -> None:
        if self._best:
            self.network.load_state_dict(self._best["network"])

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.processes.device
        tensors = {
            k: v.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else v
            for k, v in batch.items()
        }
        tensors["image"] = normalise(tensors["image"])
        now = {"step": self.step, "seed": self.seed, "logged": self.logged(self.step + 1)}
        with autocast(device.type, self.training.bfloat16):
            losses: Losses = self._module(tensors | now)
        return {name: self._mean(value) for name, value in losses.items()}

    def _mean(self, value: Tensor | tuple) -> Tensor:
        """A scalar as it is; (sum, count) over the count of all processes; of a triple, its root.

        Gradients are averaged over processes, hence the mean count: sum/mean(count), averaged, is
        the sum of all over the count of all.
        """
        if isinstance(value, Tensor):
            return value.float()
        total, count, *root = value
        count = self.processes.sum(count.detach().float().clone()) / self.processes.world
        mean = total.float() / count.clamp(min=1 / self.processes.world)
        return self._root(mean, *root) if root else mean

    def _root(self, mean: Tensor, k: float) -> Tensor:
        """The k-th root of the mean of all processes, with the gradient of this one's part."""
        own = mean.detach()
        whole = self.processes.sum(own.clone()) / self.processes.world
        slope = torch.where(whole > 0, whole ** (1 / k - 1) / k, 0)
        return whole ** (1 / k) + slope * (mean - own)

    def _set_lr(self) -> None:
        """Poly schedule, after a linear warm-up; a function of the step alone."""
        t = self.training
        factor = (1 - self.step / t.steps) ** t.power
        if t.warmup:
            factor *= min(1.0, (self.step + 1) / t.warmup)
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * factor

    def close_interval(self) -> dict[str, float]:
        """Mean losses since the last call, over all processes, as a row of the history.

        Losses are read once an interval, not once a step: reading waits for the device.
        """
        values = iter(torch.cat([values for _, values in self._kept]).tolist())
        kept = [{name: next(values) for name in names} for names, _ in self._kept]
        for step, losses in enumerate(kept, start=self.step - len(kept)):
            self._check(step, losses)
        means = {name: fmean(step[name] for step in kept if name in step) for name in kept[-1]}
        row = {"step": self.step, "lr": self.optimizer.param_groups[0]["lr"], **means}
        self.history.append(row)
        self._kept = []
        return row

    def _check(self, step: int, losses: dict[str, float]) -> None:
        """Stop all processes where a loss is not finite; the first says so."""
        bad = ", ".join(f"{name}={v}" for name, v in losses.items() if not math.isfinite(v))
        if bad and not self.processes.first:
            raise SystemExit(2)
        if bad:
            raise NotFinite(
                f"step {step + 1}: loss {bad}, expected a finite number; images of that step: "
                f"{' '.join(self.seen(step))}. Lower the learning rate, or look at these images"
            )

    def finite(self) -> bool:
        """Whether this state is worth keeping: no loss and no weight of it has gone wrong."""
        held = [*(losses for _, losses in self._kept), *self.network.state_dict().values()]
        return all(bool(tensor.isfinite().all()) for tensor in held)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "kept": self._kept,
            "best": self._best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history, self._best = state["step"], state["history"], state["best"]
        self._kept = [(names, kept.to(self.processes.device)) for names, kept in state["kept"]]


def _together(network: nn.Module, processes: Processes) -> nn.Module:
    devices = [processes.device.index] if processes.device.type == "cuda" else None
    # Of a 1×1 convolution that is used twice, and strides along a side of one mean nothing.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        # From torch 2.15 on `broadcast_buffers` has a new name, which older ones do not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def _optimizer(groups: list[dict[str, Any]], training: Training) -> torch.optim.Optimizer:
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    groups = [g for g in groups if g["params"]]
    decay = training.weight_decay
    match training.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, momentum=training.momentum, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(groups, betas=MOMENTS, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(groups, betas=MOMENTS, weight_decay=decay)


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout and sampling by what identifies the step."""
    torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + rank) % (1 << 63))


@contextmanager
def _polite_end(first: bool) -> Iterator[Callable[[], int]]:
    """On SIGTERM, finish the step, save, leave: yields a function that returns the signal or 0.

    Only the first process saves, so only it decides; the others live until it has left.
    """
    received = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number

    earlier = signal.signal(signal.SIGTERM, note if first else signal.SIG_IGN)
    try:
        yield lambda: received
    finally:
        signal.signal(signal.SIGTERM, earlier)
