"""The ring of NROIs against a deque of fixed length."""

import pytest
import torch
from scipy.stats import chisquare

from fbr.cam.bank import Bank
from tests.reference import fbr as twin

SIZE, WIDTH, CLASSES = 10, 3, 4


def pushes(sizes, seed=0):
    """Rows, labels and flags; rows are numbered through, so that any mix-up shows."""
    generator = torch.Generator().manual_seed(seed)
    first = 1
    for size in sizes:
        rows = torch.arange(first, first + size)[:, None].float().expand(-1, WIDTH)
        labels = torch.randint(0, 2, (size, CLASSES), generator=generator).float()
        yield rows, labels, torch.rand(size, generator=generator) < 0.7
        first += size


def in_order(bank):
    """What the bank holds, oldest first, as the twin keeps it."""
    held, end = int(bank.held), int(bank.pushed)
    at = [place % len(bank.rows) for place in range(end - held, end)]
    return [(bank.rows[i].float().tolist(), bank.labels[i].float().tolist()) for i in at]


@pytest.mark.parametrize(
    "sizes",
    [[4], [10], [4] * 20, [7, 0, 3, 10, 1, 9], [1] * 35, [11], [4, 25, 3], [53, 2]],
)
@pytest.mark.parametrize("flags", ["some", "all", "none"])
def test_it_keeps_what_a_queue_keeps(sizes, flags):
    bank, queue = Bank(SIZE, WIDTH, CLASSES, torch.float32), twin.Queue(SIZE)
    for rows, labels, counts in pushes(sizes):
        counts = {"some": counts, "all": counts | True, "none": counts & False}[flags]
        bank.push(rows, labels, counts)
        queue.push(rows, labels, counts)
        assert int(bank.held) == len(queue.held)
        assert in_order(bank) == list(queue.held)


def test_rows_keep_no_gradient():
    bank = Bank(SIZE, WIDTH, CLASSES, torch.float32)
    rows = torch.rand(4, WIDTH, requires_grad=True)
    bank.push(rows * 2, torch.ones(4, CLASSES), torch.ones(4, dtype=torch.bool))
    assert not any(tensor.requires_grad for tensor in (bank.rows, *bank.draw(torch.rand(5))))
    assert not list(bank.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once_and_gives_float32(dtype):
    bank = Bank(SIZE, WIDTH, CLASSES, dtype)
    rows = torch.rand(4, WIDTH, generator=torch.Generator().manual_seed(0))
    bank.push(rows, torch.ones(4, CLASSES), torch.ones(4, dtype=torch.bool))
    drawn, _ = bank.draw(torch.tensor([0.0, 0.3, 0.6, 0.8]))
    assert bank.rows.dtype == dtype
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, rows.to(dtype).float())


def test_a_saved_bank_goes_on_as_if_nothing_had_been():
    whole, first = (Bank(SIZE, WIDTH, CLASSES, torch.bfloat16) for _ in range(2))
    second = Bank(SIZE, WIDTH, CLASSES, torch.bfloat16)
    for number, given in enumerate(pushes([4] * 8)):
        whole.push(*given)
        if number == 5:
            second.load_state_dict(first.state_dict())
        (first if number < 5 else second).push(*given)
    assert whole.state_dict().keys() == {"rows", "labels", "pushed"}
    assert all(map(torch.equal, whole.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("pushed", [3, 10, 27])
def test_each_row_that_is_held_is_drawn_as_often(pushed):
    bank = Bank(SIZE, WIDTH, CLASSES, torch.float32)
    for rows, labels, _ in pushes([pushed]):
        bank.push(rows, labels, torch.ones(pushed, dtype=torch.bool))
    uniform = torch.rand(100, 200, generator=torch.Generator().manual_seed(5))
    rows, labels = bank.draw(uniform)
    assert rows.shape == (100, 200, WIDTH)
    assert labels.shape == (100, 200, CLASSES)
    seen = rows[..., 0].long().flatten().bincount()
    held = min(SIZE, pushed)
    assert not seen[: pushed - held + 1].any()
    assert len(seen) == pushed + 1
    assert chisquare(seen[-held:].numpy()).pvalue > 0.001


def test_labels_are_drawn_with_their_rows():
    bank, queue = Bank(SIZE, WIDTH, CLASSES, torch.float32), twin.Queue(SIZE)
    for given in pushes([4] * 9):
        bank.push(*given)
        queue.push(*given)
    rows, labels = bank.draw(torch.rand(200, generator=torch.Generator().manual_seed(0)))
    drawn = list(zip(rows.tolist(), labels.float().tolist(), strict=True))
    assert all(pair in queue.held for pair in drawn)


def test_the_largest_draw_is_the_last_row():
    """In float32 the product with a large count rounds up to it."""
    bank = Bank(1000, 1, 1, torch.float32)
    bank.push(torch.arange(1000.0)[:, None], torch.ones(1000, 1), torch.ones(1000).bool())
    rows, _ = bank.draw(torch.tensor([0.0, 1 - 2**-24]))
    assert rows.flatten().tolist() == [0, 999]


def test_some_are_evenly_spread_over_all_that_are_held():
    bank = Bank(1000, 1, 1, torch.float32)
    bank.push(torch.arange(600.0)[:, None], torch.ones(600, 1), torch.ones(600).bool())
    assert bank.some(6).flatten().tolist() == [0, 100, 200, 300, 400, 500]


def test_an_empty_bank_gives_zeros():
    rows, labels = Bank(SIZE, WIDTH, CLASSES, torch.float32).draw(torch.rand(7))
    assert not rows.any()
    assert not labels.any()
