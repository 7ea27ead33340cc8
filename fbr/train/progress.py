"""What a person sees of a training: a live bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

log = logging.getLogger("fbr")
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Steps done, losses, learning rate, images a second and time left."""

    def __init__(
        self, name: str, start: int, steps: int, batch: int, *, shown: bool = True
    ) -> None:
        self._name, self._first, self._steps, self._batch = name, start, steps, batch
        self._shown = shown
        self._began = time.monotonic()
        self._last_line = self._began
        self._bar = None
        self._said = ""

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns, TextColumn("{task.fields[said]}"), console=Console(stderr=True)
            )
            self._bar.start()
            self._task = self._bar.add_task(
                self._name, completed=self._first, total=self._steps, said=""
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, done: int) -> None:
        """Move the bar; costs nothing where there is none."""
        if self._bar:
            self._bar.update(self._task, completed=done, said=f"{self._said} {self._pace(done)}")

    def losses(self, done: int, values: dict[str, float], lr: float) -> None:
        """Show the mean losses since the last call."""
        self._said = " ".join(f"{k} {v:.4g}" for k, v in values.items()) + f" lr {lr:.3g}"
        now = time.monotonic()
        due = now - self._last_line > SECONDS_BETWEEN_LINES or done == self._steps
        if self._shown and not self._bar and due:
            self._last_line = now
            log.info("%s %d/%d %s %s", self._name, done, self._steps, self._said, self._pace(done))

    def _pace(self, done: int) -> str:
        seconds = max(time.monotonic() - self._began, 1e-6)
        rate = (done - self._first) / seconds
        left = (self._steps - done) / rate if rate else 0
        return f"{rate * self._batch:.1f} images/s {int(left // 60)}:{int(left % 60):02d} left"

    def images_per_second(self, done: int) -> float:
        """Pace since the start of this process."""
        return (done - self._first) * self._batch / max(time.monotonic() - self._began, 1e-6)
