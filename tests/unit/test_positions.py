"""Positions of maps in images: read and drawn one by one, and where backbones really look."""

import pytest
import torch
import torch.nn.functional as F

from fbr.nets import backbones
from fbr.positions import PIXELS, Onto, Positions
from tests.reference import positions as twin

SIZES = [((32, 32), (16, 16), 4), ((33, 47), (16, 20), 8), ((8, 5), (4, 4), 8), ((9, 9), (9, 9), 2)]
GRIDS = [(Positions(stride), image, view) for image, view, stride in SIZES]
GRIDS += [(Positions(4, 1.5), (20, 16), (12, 8)), (Positions(16, 7.5), (40, 33), (17, 16))]


def maps_of(positions: Positions, image: tuple[int, int]) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, *(-(-side // positions.stride) for side in image))


@pytest.mark.parametrize(("positions", "image", "view"), GRIDS)
def test_maps_are_read_where_the_positions_of_the_small_view_lie(positions, image, view):
    maps = maps_of(positions, image)
    expected = twin.onto(maps, image, view, positions)
    found = Onto(image, view, positions)(maps)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("positions", "view", "size"), GRIDS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_maps_are_drawn_where_their_positions_lie(positions, view, size, mirrored):
    maps = maps_of(positions, view)
    expected = twin.drawn(maps, view, size, positions, mirrored)
    found = positions.drawn(maps, view, size, mirrored)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 64, 65])
@pytest.mark.parametrize("images", [1, 3])
def test_many_channels_are_drawn_like_few(channels, images):
    torch.manual_seed(0)
    own, view, size = Positions(8), (20, 33), (11, 14)
    maps = torch.rand(images, channels, 3, 5, requires_grad=True)
    found = own.drawn(maps.to(memory_format=torch.channels_last), view, size)
    each = torch.cat([own.drawn(maps[:, c : c + 1], view, size) for c in range(channels)], 1)
    torch.testing.assert_close(found, each)
    weight = torch.rand_like(each)
    gradients = [torch.autograd.grad((m * weight).sum(), maps)[0] for m in (found, each)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("first", [0.0, 3.5])
@pytest.mark.parametrize("size", [(40, 33), (10, 9), (80, 66)])
def test_what_a_map_says_of_a_pixel_is_drawn_there(first, size):
    """Maps hold the row and the column of their positions, in pixels of the image."""
    view, own = (40, 33), Positions(8, first)
    rows, columns = (own.first + 8.0 * torch.arange(-(-side // 8)) for side in view)
    maps = torch.stack([rows[:, None].expand(5, 5), columns.expand(5, 5)])[None]
    found = own.drawn(maps, view, size)[0]
    mirrored = torch.stack([maps[0, 0], view[1] - 1 - maps[0, 1]])[None]
    again = own.drawn(mirrored, view, size, mirrored=True)[0]
    pixel = [
        (torch.arange(side) + 0.5) * whole / side - 0.5
        for side, whole in zip(size, view, strict=True)
    ]
    expected = torch.stack(torch.meshgrid(*pixel, indexing="ij"))
    inside = (expected >= own.first) & (expected <= own.first + 32)
    torch.testing.assert_close(found[inside], expected[inside])
    inside = (expected >= own.first) & (expected <= 32 - own.first)
    torch.testing.assert_close(again[0][inside[0]], expected[0][inside[0]])
    torch.testing.assert_close(again[1][inside[1]], expected[1][inside[1]])


@pytest.mark.parametrize(("side", "view", "stride"), [(225, 96, 16), (448, 134, 8), (96, 48, 8)])
def test_a_network_that_sees_where_it_is_finds_both_views_to_agree(side, view, stride):
    """Maps hold the place of their positions in the image, and do so in either view of it."""
    image = torch.stack(torch.meshgrid(*[torch.arange(side).float()] * 2, indexing="ij"))[None]
    small = F.interpolate(image, (view, view), mode="bilinear")[..., ::stride, ::stride]
    onto = Onto((side, side), (view, view), Positions(stride))
    found = onto(image[..., ::stride, ::stride])
    last = (side - 1) // stride * stride  # no position lies beyond
    assert (found - small.clamp(max=last)).abs().max() < 0.02 * stride


@pytest.mark.parametrize(
    ("own", "within"),
    [
        (Positions(16), PIXELS),
        (Positions(16, 7.5), PIXELS),
        (Positions(16), Positions(8)),
        (Positions(16, 7.5), Positions(4, 1.5)),
        (Positions(8), Positions(16)),
    ],
)
@pytest.mark.parametrize("side", [33, 48, 1])
def test_the_nearest_is_the_nearest(own, within, side):
    picture = torch.rand(2, *(-(-length // within.stride) for length in (side, 40)))
    size = -(-side // own.stride), -(-40 // own.stride)
    expected = [twin.nearest(one, size, own, within) for one in picture]
    assert torch.equal(own.nearest(picture, size, within), torch.stack(expected))


@pytest.mark.parametrize("own", [Positions(4), Positions(16), Positions(4, 1.5), Positions(5)])
@pytest.mark.parametrize("finer", [1, 4])
@pytest.mark.parametrize("size", [(17, 16), (1, 3)])
def test_means_around_positions_are_those_of_their_squares(own, finer, size):
    torch.manual_seed(0)
    picture, count = torch.rand(2, 3, *size), own.count(size)
    found = own.around(picture, count, finer)
    torch.testing.assert_close(found, twin.around(picture, count, finer, own).float())


@pytest.mark.parametrize(("side", "stride"), [(225, 16), (96, 8), (321, 16)])
def test_a_ramp_has_the_place_of_each_position_around_it(side, stride):
    ramp, own = torch.arange(float(side)).expand(1, 1, side, side), Positions(stride)
    found = own.around(ramp, own.count((side, side)))[0, 0, 0]
    place = stride * torch.arange(len(found))
    # A square of even sides has no pixel in its middle: it begins half a pixel before it.
    assert (found[1:-1] - place[1:-1]).abs().max() <= 0.5


@pytest.mark.parametrize(
    ("own", "within"),
    [(Positions(2), Positions(16)), (Positions(4), Positions(8, 3.5)), (Positions(16), PIXELS)],
)
def test_a_coarser_map_is_read_between_its_positions(own, within):
    torch.manual_seed(0)
    view = (33, 40)
    maps = torch.rand(2, 3, *within.count(view))
    places = [
        [(own.first + j * own.stride - within.first) / within.stride for j in range(count)]
        for count in own.count(view)
    ]
    found = own.bilinear(maps, own.count(view), within)
    torch.testing.assert_close(found.double(), twin.read(maps, *places), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(11, 13), (33, 40), (80, 66)])
def test_a_picture_of_another_size_is_read_where_positions_lie(size):
    torch.manual_seed(0)
    view, own = (33, 40), Positions(8)
    picture = torch.rand(1, 2, *size)
    places = [
        [(j * 8 + 0.5) * side / seen - 0.5 for j in range(-(-seen // 8))]
        for side, seen in zip(size, view, strict=True)
    ]
    found = own.bilinear(picture, own.count(view), view=view)
    torch.testing.assert_close(found.double(), twin.read(picture, *places), atol=1e-5, rtol=0)
    rows, columns = (
        [min(max(int(place + 0.5), 0), side - 1) for place in row]
        for row, side in zip(places, size, strict=True)
    )
    expected = picture[0][:, rows][:, :, columns]
    assert torch.equal(own.nearest(picture[0], own.count(view), view=view), expected)


@pytest.mark.parametrize("own", [Positions(4), Positions(8), Positions(16, 7.5)])
@pytest.mark.parametrize("width", [33, 40, 47])
def test_the_mirror_image_is_read_from_right_to_left(own, width):
    torch.manual_seed(0)
    count = own.count((1, width))[1]
    maps = torch.rand(2, 3, 2, count)
    pixels = [own.first + j * own.stride for j in range(count)]
    places = [(width - 1 - pixel - own.first) / own.stride for pixel in pixels]
    expected = twin.read(maps, range(2), places)
    torch.testing.assert_close(own.unmirrored(maps, width).double(), expected, atol=1e-5, rtol=0)


def test_a_map_at_the_same_positions_is_itself():
    maps = torch.rand(1, 2, 3, 4)
    assert Positions(8).nearest(maps, (3, 4), Positions(8)) is maps


def test_what_was_made_in_inference_serves_a_training():
    """Weights are kept; those of inference must not spoil a gradient."""
    maps, own = torch.rand(1, 1, 3, 3), Positions(7)
    with torch.inference_mode():
        own.drawn(maps, (15, 15), (15, 15))
        own.nearest(torch.rand(1, 15, 15), (3, 3))
    leaf = maps.clone().requires_grad_()
    picture = torch.rand(1, 15, 15, requires_grad=True)
    total = own.drawn(leaf, (15, 15), (15, 15)).sum() + own.nearest(picture, (3, 3)).sum()
    total.backward()
    assert leaf.grad.sum() == pytest.approx(225)
    assert picture.grad.sum() == pytest.approx(9)


def test_bfloat16_is_not_for_places():
    maps = torch.rand(1, 1, 5, 5)
    exact = Positions(8).drawn(maps, (33, 33), (33, 33))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Positions(8).drawn(maps, (33, 33), (33, 33)), exact)


def middle(backbone, level: int, number: int) -> float:
    """The pixel around which a position of a map looks, from its gradient on grey images."""
    torch.manual_seed(0)
    images = (0.1 * torch.randn(2, 3, 257, 257)).requires_grad_()
    maps = backbone.eval()(images)[level]
    (maps[:, :, number, number] ** 2).sum().backward()
    seen = images.grad.square().sum((0, 1))
    pixel = torch.arange(257.0)
    down, across = (seen.sum(axis) @ pixel / seen.sum() for axis in (1, 0))
    return ((down + across) / 2).item()


@pytest.mark.parametrize(
    ("name", "stride"),
    [("small", 8), ("small", 16), ("mobilenet_v2", 16), ("resnet50", 16), ("resnet38d", 8)],
)
def test_backbones_look_where_their_positions_lie(name, stride):
    torch.manual_seed(1)
    backbone = backbones.build(name, stride)
    for level, positions in enumerate(backbone.positions):
        number = 128 // positions.stride
        place = positions.first + number * positions.stride
        assert middle(backbone, level, number) == pytest.approx(place, abs=0.25 * positions.stride)
