"""The training loop: interrupted equals uninterrupted, and what it refuses."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fbr.params import Training
from fbr.train import checkpoint, loop
from fbr.train.loop import Images, NotFinite, Upkeep, fit
from fbr.train.processes import Processes, Refusal

ALONE = Processes(0, 1, torch.device("cpu"))
SIDE = 6


class Task(nn.Module):
    """Everything that a resume can lose: batch norm, dropout, and a bank filled as it learns."""

    def __init__(self, norm: bool = True, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(4, 2, 1)
        self.register_buffer("bank", torch.zeros(5, 4))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def forward(self, batch):
        features = self.body(batch["image"])
        pooled = features.mean((2, 3)).float()
        with torch.no_grad():
            places = (torch.arange(len(pooled)) + self.filled) % len(self.bank)
            self.bank[places] = pooled
            self.filled += len(pooled)
        near = F.mse_loss(pooled, self.bank.mean(0).expand_as(pooled))
        logits = self.head(features).float()
        losses = F.cross_entropy(logits, batch["mask"].long(), ignore_index=255, reduction="none")
        watched = {"time": torch.tensor(batch["step"] + 1.0)} if batch["logged"] else {}
        return {"pixels": (losses.sum(), (batch["mask"] != 255).sum()), "near": near} | watched

    def groups(self) -> list[dict]:
        return [
            {"params": self.body.parameters(), "lr": 0.05},
            {"params": self.head.parameters(), "lr": 0.2},
        ]


def recipe(**numbers) -> Training:
    usual = {
        "network": {"name": "small", "stride": 8, "weights": "none"},
        "split": "train",
        "steps": 7,
        "batch": 4,
        "crop": 16,
        "scale": [1.0, 1.0],
        "flip": False,
        "optimizer": "sgd",
        "lr": 0.05,
        "head_lr": 0.2,
        "weight_decay": 0.01,
        "power": 0.9,
        "log_every": 3,
    }
    return Training.model_validate(usual | numbers)


def images(count: int = 9, void: bool = True) -> Images:
    """Noise, and masks with an uneven number of void pixels."""
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    masks = rng.integers(0, 2, (count, SIDE, SIDE)).astype(np.uint8)
    for number, mask in enumerate(masks if void else ()):
        mask.ravel()[: 4 * number] = 255

    def sample(index, rng):
        noise = rng.integers(0, 20, (SIDE, SIDE, 3), np.uint8)
        return {"image": photographs[index] // 2 + noise, "mask": masks[index]}

    return Images([f"id{i}" for i in range(count)], sample)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time as checkpoints see it: a second a step, and none to save one."""

    class Clock:
        now = 0

        def monotonic(self) -> float:
            return self.now

    def seed_step(*numbers: int) -> None:
        clock.now += 1
        real(*numbers)

    clock, real = Clock(), loop._seed_step
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "_seed_step", seed_step)
    return clock


@pytest.fixture
def train(tmp_path):
    """Fit a fresh task; returns everything that a run can differ in."""

    def train(task: nn.Module | None = None, source: Images | None = None, seed=0, **options):
        upkeep = {"checkpoint_minutes": 60.0, "loader_threads": 2, "key": "k"}
        upkeep |= {name: options.pop(name) for name in ("key", "on_log") if name in options}
        upkeep |= {k: v for k, v in options.items() if k in upkeep}
        judge = options.pop("judge", None)
        numbers = {k: v for k, v in options.items() if k not in upkeep}
        task = task or Task()
        history = fit(
            task,
            task.groups(),
            source or images(),
            recipe(**numbers),
            seed,
            ALONE,
            Upkeep(name="test", state=tmp_path / "state", **upkeep),
            judge and (lambda: judge(task)),
        )
        return task.state_dict(), history

    return train


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state" / "checkpoint.pt"


class Killed(BaseException):
    """A kill -9: nothing after it runs."""


def killing(step: int, steps: dict[str, int]):
    """Die at the start of this step of the loop."""

    def one_step(self, parts):
        if self.step == step:
            raise Killed
        steps["run"] = steps.get("run", 0) + 1
        real(self, parts)

    real = loop._Run.one_step
    return one_step


def same(one, other) -> bool:
    weights = all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    return weights and one[1] == other[1] and one[0].keys() == other[0].keys()


VARIANTS = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "adam, accumulated": {"optimizer": "adam", "accumulate": 2},
    "warm-up, clipped, float32": {"warmup": 4, "clip": 0.1, "bfloat16": False},
    "every step logged": {"log_every": 1},
}


@pytest.mark.parametrize("numbers", VARIANTS.values(), ids=VARIANTS)
class TestInterrupted:
    @pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
    def test_by_a_kill_equals_uninterrupted(self, train, monkeypatch, state, numbers, step):
        undisturbed = train(**numbers)
        assert not state.exists()
        steps: dict[str, int] = {}
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "one_step", killing(step, steps))
            with pytest.raises(Killed):
                train(checkpoint_minutes=1e-9, **numbers)
        assert steps["run"] == step
        assert torch.load(state, weights_only=True)["step"] == step
        again = train(checkpoint_minutes=1e-9, **numbers)
        assert same(again, undisturbed)

    @pytest.mark.parametrize("step", [1, 3, 5, 7])
    def test_by_sigterm_equals_uninterrupted(self, train, monkeypatch, state, numbers, step):
        undisturbed = train(**numbers)

        def one_step(self, parts):
            real(self, parts)
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

        real = loop._Run.one_step
        before = signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "one_step", one_step)
            with pytest.raises(SystemExit) as left:
                train(**numbers)
        assert left.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
        assert torch.load(state, weights_only=True)["step"] == step
        assert same(train(**numbers), undisturbed)


def test_killed_at_every_step_in_turn_equals_uninterrupted(train, monkeypatch):
    undisturbed = train()
    for step in range(1, 7):
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "one_step", killing(step, {}))
            with pytest.raises(Killed):
                train(checkpoint_minutes=1e-9)
    assert same(train(), undisturbed)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_of_judged_epochs_the_best_is_left(train, best):
    seen = []

    def judge(task):
        task.eval()
        seen.append({k: v.clone() for k, v in task.state_dict().items()})
        return 1.0 if len(seen) == best + 1 else 0.5

    undisturbed, history = train()
    found, judged = train(judge=judge)
    assert len(seen) == 3  # nine images in batches of 4: steps 3, 5 and 7
    assert judged == history
    assert all(torch.equal(found[k], seen[best][k]) for k in found)
    assert all(torch.equal(undisturbed[k], seen[-1][k]) for k in found)


def test_the_best_epoch_is_remembered_over_a_kill(train, monkeypatch):
    def judge(task):
        return -task.state_dict()[next(iter(task.state_dict()))].double().sum().abs().item()

    undisturbed = train(judge=judge)
    for step in (3, 4, 6):
        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "one_step", killing(step, {}))
            with pytest.raises(Killed):
                train(checkpoint_minutes=1e-9, judge=judge)
    assert same(train(judge=judge), undisturbed)


def test_optimiser_state_is_that_of_the_uninterrupted(train, monkeypatch, state):
    """A checkpoint after resuming holds the very momentum of one without."""
    saved = []
    for steps_killed in ([6], [2, 6]):
        state.unlink(missing_ok=True)
        for step in steps_killed:
            with monkeypatch.context() as patch:
                patch.setattr(loop._Run, "one_step", killing(step, {}))
                with pytest.raises(Killed):
                    train(checkpoint_minutes=1e-9, optimizer="adamw")
        saved.append(torch.load(state, weights_only=True))
    one, other = (s["optimizer"]["state"] for s in saved)
    assert one.keys() == other.keys()
    for number in one:
        assert all(torch.equal(one[number][k], other[number][k]) for k in one[number])
    assert saved[0]["history"] == saved[1]["history"]
    for (names, one), (others, other) in zip(saved[0]["kept"], saved[1]["kept"], strict=True):
        assert names == others
        assert torch.equal(one, other)


@pytest.mark.parametrize("spoil", ["key", "truncated", "empty", "text"])
def test_a_checkpoint_that_does_not_fit_is_not_taken(train, monkeypatch, state, spoil):
    undisturbed = train()
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "one_step", killing(4, {}))
        with pytest.raises(Killed):
            train(checkpoint_minutes=1e-9, key="other" if spoil == "key" else "k", seed=3)
    content = state.read_bytes()
    state.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}.get(
            spoil, content
        )
    )
    steps: dict[str, int] = {}
    monkeypatch.setattr(loop._Run, "one_step", killing(-1, steps))
    assert same(train(), undisturbed)
    assert steps["run"] == 7


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_matter(train, threads):
    assert same(train(loader_threads=threads), train())


def test_the_seed_matters(train):
    assert not same(train(seed=1), train())


def test_two_halves_of_8_equal_16(train):
    """Without batch norm, and with as many labelled pixels in either half."""

    class Plain(Task):
        def forward(self, batch):
            self.bank.zero_()
            return super().forward(batch) | {"near": self.head.weight.square().mean()}

    results = [
        train(
            Plain(norm=False, dropout=0.0),
            images(void=False),
            batch=16,
            bfloat16=False,
            accumulate=n,
        )
        for n in (1, 2)
    ]
    weights = [r[0] for r in results]
    for name in weights[0].keys() - {"bank"}:
        assert torch.allclose(*(w[name].float() for w in weights), atol=1e-6), name
    for one, other in zip(*(r[1] for r in results), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_a_pair_is_divided_by_its_count(train):
    class Counted(nn.Module):
        def __init__(self, pair: bool) -> None:
            super().__init__()
            self.weight, self.pair = nn.Parameter(torch.ones(())), pair

        def forward(self, batch):
            wanted = batch["mask"] != 255
            values = (self.weight * batch["mask"].float() - 0.3).square()[wanted]
            return {"a": (values.sum(), wanted.sum()) if self.pair else values.mean()}

        def groups(self):
            return [{"params": self.parameters(), "lr": 0.1}]

    pair, mean = (train(Counted(p)) for p in (True, False))
    assert pair[0]["weight"].item() == pytest.approx(mean[0]["weight"].item(), rel=1e-6)
    assert pair[1][-1] == pytest.approx(mean[1][-1], rel=1e-6)


@pytest.mark.parametrize("k", [1.0, 3.0])
def test_of_a_triple_the_loss_is_the_root_of_the_mean(train, k):
    class Powers(nn.Module):
        def __init__(self, triple: bool) -> None:
            super().__init__()
            self.weight, self.triple = nn.Parameter(torch.ones(())), triple

        def forward(self, batch):
            wanted = batch["mask"] != 255
            powers = (self.weight * batch["mask"].float() - 0.3)[wanted].abs() ** k
            triple = powers.sum(), wanted.sum(), k
            return {"a": triple if self.triple else powers.mean() ** (1 / k)}

        def groups(self):
            return [{"params": self.parameters(), "lr": 0.1}]

    triple, root = (train(Powers(t)) for t in (True, False))
    assert triple[0]["weight"].item() == pytest.approx(root[0]["weight"].item(), rel=1e-6)
    assert triple[1][-1] == pytest.approx(root[1][-1], rel=1e-6)


@pytest.mark.parametrize("root", [(), (3.0,)])
def test_a_batch_that_is_all_void_changes_nothing(train, root):
    """A count of zero gives a loss of zero, no gradient, and no division by zero."""

    def sample(index, rng):
        return {
            "image": np.zeros((SIDE, SIDE, 3), np.uint8),
            "mask": np.full((SIDE, SIDE), 255, np.uint8),
        }

    class Pixels(Task):
        def forward(self, batch):
            return {"pixels": (*super().forward(batch)["pixels"][:2], *root)}

    task = Pixels(norm=False)
    before = {k: v.clone() for k, v in task.named_parameters()}
    _, history = train(task, Images(["a"], sample), weight_decay=0.0)
    assert all(torch.equal(v, before[k]) for k, v in task.named_parameters())
    assert [row["pixels"] for row in history] == [0.0] * 3


class Breaking(Task):
    """Gives a loss of NaN for the image whose mask begins with 77."""

    def forward(self, batch):
        bad = (batch["mask"][:, 0, 0] == 77).any()
        mask = batch["mask"].where(batch["mask"] != 77, 0)
        losses = super().forward(batch | {"mask": mask})
        return losses | {"near": losses["near"] + torch.where(bad, float("nan"), 0.0)}


def with_a_bad_image(at: str) -> Images:
    fine = images()

    def sample(index, rng):
        arrays = fine.sample(index, rng)
        if fine.ids[index] == at:
            arrays = arrays | {"mask": np.full((SIDE, SIDE), 77, np.uint8)}
        return arrays

    return Images(fine.ids, sample)


@pytest.mark.parametrize("log_every", [1, 3, 7])
def test_a_loss_that_is_not_finite_names_the_step_and_its_images(train, state, log_every):
    order = loop.Order(9, 0)
    seen = [[f"id{order[4 * step + i]}" for i in range(4)] for step in range(7)]
    bad = seen[1][2]
    step = next(i for i, ids in enumerate(seen) if bad in ids)
    with pytest.raises(NotFinite) as stopped:
        train(Breaking(), with_a_bad_image(bad), log_every=log_every, checkpoint_minutes=1e-9)
    said = str(stopped.value)
    assert said.startswith(f"step {step + 1}: loss near=nan, expected a finite number; images of ")
    assert f": {' '.join(seen[step])}. " in said
    assert issubclass(NotFinite, Refusal)
    # The state of the last step before is kept, and nothing of the broken one.
    kept = torch.load(state, weights_only=True) if state.exists() else {"step": 0, "network": {}}
    assert kept["step"] == step
    assert all(v.isfinite().all() for v in kept["network"].values())


def test_weights_that_are_not_finite_are_not_kept(train, state):
    """The loss of a step can be finite and its gradient not: the checkpoint before it stays."""

    class Steep(Task):
        def forward(self, batch):
            losses = super().forward(batch)
            if losses["pixels"][0].requires_grad and self.filled > 10:
                weight = self.head.bias[0]
                losses["steep"] = (weight - weight.detach()).abs().sqrt()
            else:
                losses["steep"] = self.head.bias[0] * 0
            return losses

    with pytest.raises(NotFinite, match="step 4"):
        train(Steep(), log_every=7, checkpoint_minutes=1e-9)
    assert torch.load(state, weights_only=True)["step"] == 2


@pytest.mark.parametrize(
    ("world", "batch", "accumulate", "said"),
    [(2, 5, 1, "a multiple of 2"), (1, 9, 2, "a multiple of 2"), (4, 18, 3, "a multiple of 12")],
)
def test_a_batch_that_cannot_be_split_is_refused(world, batch, accumulate, said):
    with pytest.raises(Refusal, match=f"batch {batch} cannot be split .* choose {said}"):
        Processes(0, world, torch.device("cpu")).share(batch, accumulate)


def test_a_batch_that_can_is_shared():
    assert Processes(0, 4, torch.device("cpu")).share(24, 3) == 2


@pytest.mark.parametrize(("power", "warmup"), [(0.9, 0), (0.0, 0), (1.0, 3), (0.9, 10)])
def test_learning_rate_is_the_equation(train, monkeypatch, power, warmup):
    used = []

    def one_step(self, parts):
        real(self, parts)
        used.append([group["lr"] for group in self.optimizer.param_groups])

    real = loop._Run.one_step
    monkeypatch.setattr(loop._Run, "one_step", one_step)
    _, history = train(power=power, warmup=warmup, steps=10)
    for step, lrs in enumerate(used):
        factor = ((10 - step) / 10) ** power
        if step + 1 < warmup:
            factor = factor * (step + 1) / warmup
        assert lrs == pytest.approx([0.05 * factor, 0.2 * factor])
    assert [row["lr"] for row in history] == [used[row["step"] - 1][0] for row in history]


def test_history_has_a_row_an_interval_and_one_at_the_end(train):
    said = []
    _, history = train(on_log=lambda step, values: said.append((step, values)))
    assert [row["step"] for row in history] == [3, 6, 7]
    assert [list(row) for row in history] == [["step", "lr", "pixels", "near", "time"]] * 3
    for (step, values), row in zip(said, history, strict=True):
        assert step == row["step"]
        assert values.pop("images_per_second") > 0
        assert values == row


def test_history_is_the_mean_of_its_interval(train):
    _, every = train(log_every=1)
    _, some = train(log_every=7)
    for name in ("pixels", "near"):
        assert some[0][name] == pytest.approx(np.mean([row[name] for row in every]), rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_value_of_logged_steps_alone_is_that_of_its_step(train, accumulate):
    _, history = train(accumulate=accumulate)
    assert [row["time"] for row in history] == [3.0, 6.0, 7.0]


def test_each_epoch_reads_every_image_once(train):
    fine, read = images(), []

    def sample(index, rng):
        read.append(index)
        return fine.sample(index, rng)

    train(source=Images(fine.ids, sample), steps=9, batch=4, loader_threads=1)
    assert len(read) == 36
    assert all(sorted(read[i : i + 9]) == list(range(9)) for i in range(0, 36, 9))


def test_losses_are_read_once_an_interval(train, monkeypatch):
    """Reading a loss waits for the device; a step must not."""
    reads = []

    def counting(name: str):
        real = getattr(torch.Tensor, name)

        def read(tensor, *args):
            reads.append(name)
            return real(tensor, *args)

        return read

    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    train(steps=12, log_every=6)
    few = len(reads)
    reads.clear()
    train(steps=24, log_every=12)
    assert len(reads) == few
    reads.clear()
    train(steps=12, log_every=3)
    assert len(reads) > few


def test_frozen_parameters_stay(train):
    task = Task()
    task.body.requires_grad_(False)
    before = task.body[0].weight.clone()
    train(task, optimizer="adamw")
    assert torch.equal(task.body[0].weight, before)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimisers_get_the_numbers(name, kind):
    made = loop._optimizer(Task().groups(), recipe(optimizer=name, momentum=0.8))
    assert type(made) is kind
    assert [g["lr"] for g in made.param_groups] == [0.05, 0.2]
    assert all(g["weight_decay"] == 0.01 for g in made.param_groups)
    if name == "sgd":
        assert all(g["momentum"] == 0.8 for g in made.param_groups)


def test_a_broken_image_stops_the_training(train):
    def sample(index, rng):
        raise Refusal("images/a.jpg: cannot be read")

    with pytest.raises(Refusal, match=r"images/a\.jpg"):
        train(source=Images(["a"], sample))


def test_checkpoints_come_when_due(train, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, "save", lambda file, key, state: saved.append(state["step"]))
    train(steps=20, checkpoint_minutes=5.5 / 60)
    assert saved == [6, 12, 18]


def test_saving_takes_little_of_the_time_however_slow_it_is(train, monkeypatch, clock):
    saved = []

    def save(file, key, state) -> None:
        saved.append(state["step"])
        clock.now += 0.25

    monkeypatch.setattr(checkpoint, "save", save)
    train(steps=60, checkpoint_minutes=1e-9)
    assert saved == [1, 27, 53]


def test_a_finished_training_leaves_the_state_to_its_stage(train, state):
    train(checkpoint_minutes=1e-9)
    assert checkpoint.load(state, "k")["step"] == 6
