"""The stream of batches: a function of seed and position, whatever the threads."""

import threading

import numpy as np
import pytest
import torch

from fbr.datasets.loader import Batch, Decoded, Loader, Order

IMAGES = 7


def sample(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    image = np.full((2, 2, 3), index, np.uint8)
    return {"image": image, "noise": rng.random(3), "index": np.array(index)}


def stream(start=0, stop=9, threads=1, seed=0, batch=3, make=sample, **options) -> list[Batch]:
    def positions(step: int) -> range:
        return range(step * batch, (step + 1) * batch)

    loader = Loader(make, Order(IMAGES, seed), positions, threads, **options)
    return list(loader.batches(start, stop))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("images", [1, 2, 7])
def test_every_epoch_is_a_permutation(images):
    order = Order(images, seed=3)
    epochs = [[order[e * images + i] for i in range(images)] for e in range(20)]
    assert all(sorted(epoch) == list(range(images)) for epoch in epochs)
    assert images < 7 or len({tuple(epoch) for epoch in epochs}) > 15


def test_orders_differ_by_seed_and_agree_with_themselves():
    one, other = Order(50, 0), Order(50, 1)
    assert [one[i] for i in range(99)] == [Order(50, 0)[i] for i in range(99)]
    assert [one[i] for i in range(50)] != [other[i] for i in range(50)]


def test_batches_hold_what_their_positions_say():
    order = Order(IMAGES, 0)
    for step, batch in enumerate(stream()):
        indices = [order[p] for p in range(3 * step, 3 * step + 3)]
        assert batch["index"].tolist() == indices
        assert batch["image"].shape == (3, 2, 2, 3)
        assert batch["image"].dtype == torch.uint8
        assert batch["image"][:, 0, 0, 0].tolist() == indices


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("ahead", [1, 4])
def test_threads_do_not_change_the_stream(threads, ahead):
    def late(index, rng):
        # The later ones overtake the earlier ones.
        threading.Event().wait(0.002 * (index % 3))
        return sample(index, rng)

    assert same(stream(threads=threads, ahead=ahead, make=late), stream())


@pytest.mark.parametrize("start", range(10))
def test_the_stream_from_a_step_is_the_tail_of_the_whole(start):
    assert same(stream(start), stream()[start:])


def test_randomness_differs_by_position_and_seed():
    noise = torch.cat([b["noise"] for b in stream()])
    assert len(noise.unique(dim=0)) == len(noise)
    assert not same(stream(seed=1), stream())


def test_processes_share_the_stream():
    def positions(rank: int):
        return lambda step: range(4 * step + 2 * rank, 4 * step + 2 * rank + 2)

    loaders = [Loader(sample, Order(IMAGES, 0), positions(r), 1) for r in range(2)]
    halves = zip(*(loader.batches(0, 5) for loader in loaders), strict=True)
    joined = [{k: torch.cat([a[k], b[k]]) for k in a} for a, b in halves]
    assert same(joined, stream(stop=5, batch=4))


def test_a_failing_image_stops_the_stream_and_its_threads():
    def broken(index, rng):
        if index == 3:
            raise ValueError("image 3")
        return sample(index, rng)

    before = threading.active_count()
    with pytest.raises(ValueError, match="image 3"):
        stream(make=broken, threads=3)
    assert threading.active_count() == before


def test_a_stream_left_early_stops_its_threads():
    loader = Loader(sample, Order(IMAGES, 0), lambda step: range(step, step + 1), 3)
    before = threading.active_count()
    batches = loader.batches(0, 1000)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_little_more_is_read_than_asked_for():
    read = []

    def counting(index, rng):
        read.append(index)
        return sample(index, rng)

    loader = Loader(counting, Order(IMAGES, 0), lambda step: range(step, step + 1), 1, 4)
    batches = loader.batches(0, 1000)
    for _ in range(3):
        next(batches)
    batches.close()
    assert len(read) <= 3 + 4


class TestDecoded:
    def read(self, counts: dict[int, int]):
        def read(index: int) -> dict[str, np.ndarray]:
            counts[index] = counts.get(index, 0) + 1
            return {"image": np.full(10, index, np.uint8), "mask": np.full(6, index, np.uint8)}

        return read

    def test_reads_once_what_fits(self):
        counts: dict[int, int] = {}
        decoded = Decoded(self.read(counts))
        for index in (0, 1, 0, 2, 1, 0):
            assert decoded[index]["mask"][0] == index
        assert counts == {0: 1, 1: 1, 2: 1}

    def test_keeps_within_its_budget(self):
        counts: dict[int, int] = {}
        decoded = Decoded(self.read(counts), budget=35)
        for _ in range(3):
            for index in range(4):
                assert decoded[index]["image"][0] == index
        assert counts == {0: 1, 1: 1, 2: 3, 3: 3}
