"""Maps that are kept, on the grid of a network and back."""

import numpy as np
import pytest
import torch

from fbr.files.maps import Maps
from fbr.positions import Positions
from fbr.stages import walking

SIZE = (42, 50)


def kept(stride: int = 4) -> Maps:
    """Rows and columns of a picture, in its pixels, over a hundred."""
    rows, columns = ((np.arange(-(-s // stride)) + 0.5) * s / -(-s // stride) - 0.5 for s in SIZE)
    cam = np.stack(np.meshgrid(rows, columns, indexing="ij")) / 100
    return Maps(np.array([1, 2], np.uint8), cam.astype(np.float16), SIZE)


@pytest.mark.parametrize("own", [Positions(4), Positions(2), Positions(8), Positions(8, 3.5)])
def test_maps_are_read_where_positions_lie_and_come_back(own):
    grid = own.count(SIZE)
    found = walking.at_positions(kept(), grid, own)
    rows, columns = (own.first + own.stride * np.arange(count) for count in grid)
    expected = np.stack(np.meshgrid(rows, columns, indexing="ij")) / 100
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    back = walking.in_cells(torch.from_numpy(found)[None], SIZE, own)[0].numpy()
    expected = kept(own.stride).cam
    assert back.shape == expected.shape
    np.testing.assert_allclose(back[inside], expected[inside], atol=2e-3)


def test_many_maps_are_drawn_like_each_alone(monkeypatch):
    monkeypatch.setattr(walking, "TOGETHER", 3)
    own, maps = Positions(4), torch.rand(2, 5, 11, 13)
    expected = torch.cat([own.drawn(one[None], SIZE, (11, 13)) for one in maps])
    assert torch.equal(walking.in_cells(maps.clone(), SIZE, own), expected)


def test_no_class_is_no_map():
    none = Maps(np.zeros(0, np.uint8), np.zeros((0, 11, 13), np.float16), SIZE)
    assert walking.at_positions(none, (11, 13), Positions(4)).shape == (0, 11, 13)
    assert walking.in_cells(torch.zeros(2, 0, 11, 13), SIZE, Positions(4)).shape == (2, 0, 11, 13)
