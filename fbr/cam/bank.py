"""The memory bank of NROIs: a ring of fixed size that forgets the oldest first."""

import torch
from torch import Tensor, nn


class Bank(nn.Module):
    """Rows (size, D) with the image labels (size, K) of the images that they come from.

    Nothing in it waits for the device, and its cost does not depend on its size. It is a buffer,
    so checkpoints hold it; every process of a training must push the same rows.
    """

    rows: Tensor
    labels: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width, dtype=dtype))
        self.register_buffer("labels", torch.zeros(size, classes, dtype=torch.bool))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    @property
    def held(self) -> Tensor:
        """How many rows there are, at most `size`: a scalar on the device."""
        return self.pushed.clamp(max=len(self.rows))

    @torch.no_grad()
    def push(self, rows: Tensor, labels: Tensor, counts: Tensor) -> None:
        """Append the rows (n, D) where counts (n,) is true, in order, over the oldest ones."""
        order = (~counts).to(torch.uint8).argsort(stable=True)  # those that count come first
        for some in order.split(len(self.rows)):
            there = counts[some]
            at = (self.pushed + torch.arange(len(some), device=rows.device)) % len(self.rows)
            # A row that does not count rewrites what its place holds: the shapes stay fixed.
            for ring, new in ((self.rows, rows), (self.labels, labels)):
                new = new.index_select(0, some).to(ring.dtype)
                kept = torch.where(there[:, None], new, ring.index_select(0, at))
                ring.index_copy_(0, at, kept)
            self.pushed += there.sum()

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (…, D) and labels (…, K), with replacement, for uniform draws in [0, 1) (…)."""
        held = self.held
        at = (uniform * held).long().clamp(max=(held - 1).clamp(min=0))
        rows, labels = (part.index_select(0, at.flatten()) for part in (self.rows, self.labels))
        return rows.view(*at.shape, -1).float(), labels.view(*at.shape, -1)

    def some(self, count: int) -> Tensor:
        """(count, D) of the rows held, evenly spread; no chance in it."""
        step = torch.arange(count, device=self.rows.device)
        return self.rows[step * self.held // count].float()
