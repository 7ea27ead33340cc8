"""Segmentation heads: their grids, and the sum of branches."""

import pytest
import torch
from torch.nn import functional as F

from fbr.errors import Refusal
from fbr.nets import backbones
from fbr.nets.heads import HEADS, FullSize, Head, ObjectContext, Segmenter, Shape, regions, scaled
from fbr.positions import Positions
from tests.reference import contexts as reference
from tests.reference import positions

CHANNELS, PLACES = [8, 16, 24], [Positions(stride) for stride in (2, 4, 8)]


def maps(batch: int = 2, height: int = 5, width: int = 7) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width)]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


def head(name: str, rates: list[int] | None = None, **more) -> Head:
    torch.manual_seed(1)
    return HEADS[name](Shape(CHANNELS, PLACES, 4, rates, **more))


def lively(module: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, with norms that do something."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean, std=0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return module.eval()


@pytest.mark.parametrize("rate", [1, 12])
def test_deeplab_v1_is_one_wide_view(rate):
    wide = lively(head("deeplabv1", [rate], width=6))
    x = maps()[-1]
    for block, padding in ((wide.see, rate), (wide.think, 0)):
        conv, norm = block[0], block[1]
        x = F.conv2d(x, conv.weight, padding=padding, dilation=max(padding, 1))
        x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    expected = F.conv2d(x, wide.classify.weight, wide.classify.bias)
    assert torch.allclose(wide(maps()), expected, atol=1e-5)
    assert wide(maps()).shape == (2, 4, 5, 7)
    assert head("deeplabv1", [rate]).classify.in_channels == 1024


@pytest.mark.parametrize("rates", [[1], [1, 2, 4], [6, 12, 18, 24]])
def test_deeplab_v2_is_the_sum_of_its_convolutions(rates):
    parallel = head("deeplabv2", rates)
    last = maps()[-1]
    expected = sum(
        F.conv2d(last, branch.weight, branch.bias, dilation=rate, padding=rate)
        for branch, rate in zip(parallel.branches, rates, strict=True)
    )
    assert torch.allclose(parallel(maps()), expected, atol=1e-6)
    assert parallel(maps()).shape == (2, 4, 5, 7)


def test_deeplab_v2_starts_near_zero():
    logits = head("deeplabv2", [1, 2])(maps())
    assert logits.abs().max() < 1


def test_ppcs_branches_and_the_mean_of_the_image_lie_side_by_side():
    side = head("aspp", [1, 2], width=8, dropout=0.75).eval()
    last = maps()[-1]
    mean = side.pool(last.mean((2, 3), keepdim=True)).expand(-1, -1, *last.shape[2:])
    near, far = (branch(last) for branch in side.branches)
    assert [branch[0].dilation for branch in side.branches] == [(1, 1), (2, 2)]
    expected = side.classify(side.project(torch.cat([near, far, mean], 1)))
    assert torch.equal(side(maps()), expected)
    assert expected.shape == (2, 4, 5, 7)
    assert side.dropout.p == 0.75


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 5, 7), (2, 1, 1)])
def test_deeplab_v3_plus_lies_on_the_fine_grid(mode, size):
    batch, height, width = size
    refined = head("deeplabv3plus", [2, 4]).train(mode)
    logits = refined(maps(*size))
    assert logits.shape == (batch, 4, 2 * height, 2 * width)  # of the map at stride 4
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in refined.parameters())


@pytest.mark.parametrize(
    ("strides", "level"),
    [
        ([4, 8, 8], 0),  # small
        ([4, 4, 8, 16, 16], 1),  # a ResNet, whose stem ends at stride 4
        ([2, 4, 8, 8, 8], 1),  # MobileNet-V2
        ([4, 8, 16, 32], 0),  # ConvNeXt
        ([2, 4], 1),  # HRNet
        ([14, 14, 14, 14], 0),  # a transformer has nothing so fine
    ],
)
def test_the_fine_map_is_chosen_by_its_stride(strides, level):
    assert Shape([8] * len(strides), [Positions(s) for s in strides], 4).level(4) == level


@pytest.mark.parametrize(("name", "stride"), [("small", 8), ("mobilenet_v2", 16), ("resnet50", 16)])
@pytest.mark.parametrize(("head", "grid"), [("deeplabv2", None), ("deeplabv3plus", 4)])
def test_segmenters_give_scores_on_the_heads_grid(name, stride, head, grid):
    network = Segmenter(backbones.build(name, stride), head, 3, [1, 2]).eval()
    with torch.inference_mode():
        images = torch.zeros(1, 3, 64, 48)
        scores, full = network(images), FullSize(network)(images)
    assert scores.shape == (1, 3, 64 // (grid or stride), 48 // (grid or stride))
    assert full.shape == (1, 3, 64, 48)


def test_full_size_scores_are_drawn_where_they_lie():
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1]).eval()
    images = torch.randn(1, 3, 41, 56)
    with torch.inference_mode():
        expected = network.positions.drawn(network(images), (41, 56), (41, 56))
        assert torch.equal(FullSize(network)(images), expected)


def test_an_unknown_head_is_refused_with_the_nearest():
    with pytest.raises(Refusal, match=r"head: found 'deeplabv3pls', .* 'deeplabv3plus'"):
        Segmenter(backbones.build("small", 8), "deeplabv3pls", 3, [1])


CONTEXTS = ["ocr", "ocr_none", "ocr_global", "ocr_conv"]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 2), (2, 1, 1)])
@pytest.mark.parametrize("name", HEADS)
def test_heads_are_built_alike_and_learn_in_all_their_parts(name, size, mode):
    built = head(name, [1], width=8).train(mode)
    outputs = built.outputs(maps(*size))
    assert all(logits.shape[:2] == (size[0], 4) for logits in outputs.values())
    sum(logits.sum() for logits in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    built.eval()
    assert torch.equal(built(maps(*size)), built.outputs(maps(*size))[""])


@pytest.mark.parametrize("name", ["deeplabv1", "deeplabv2", "deeplabv3plus", "aspp"])
def test_dilated_branches_need_their_rates(name):
    with pytest.raises(Refusal, match=rf"head '{name}' has dilated branches: give their rates"):
        head(name)


def test_a_single_view_has_a_single_rate():
    with pytest.raises(Refusal, match=r"head 'deeplabv1' has one rate, found rates \[6, 12\]"):
        head("deeplabv1", [6, 12])


@pytest.mark.parametrize(("height", "width", "classes"), [(1, 1, 2), (3, 4, 1), (5, 7, 4)])
def test_regions_are_means_over_pixels(height, width, classes):
    torch.manual_seed(0)
    pixels, coarse = torch.randn(2, 6, height, width), 3 * torch.randn(2, classes, height, width)
    found = regions(pixels, coarse)
    exact = [reference.regions(*image) for image in zip(pixels, coarse, strict=True)]
    assert torch.allclose(found, torch.tensor(exact), atol=1e-5)
    ones = torch.ones_like(pixels)
    assert torch.allclose(regions(ones, coarse), torch.ones(2, classes, 6))
    order = torch.randperm(classes)
    assert torch.allclose(regions(pixels, coarse[:, order]), found[:, order])


@pytest.mark.parametrize(("height", "width", "classes"), [(1, 1, 2), (3, 4, 1), (4, 3, 4)])
def test_object_context_is_the_equation(height, width, classes):
    torch.manual_seed(0)
    context = lively(ObjectContext(6, 4))
    pixels, coarse = torch.randn(2, 6, height, width), 3 * torch.randn(2, classes, height, width)
    found = context(pixels, coarse)
    queries, objects = context.query(pixels), regions(pixels, coarse)
    keys, values = context.key(objects), context.value(objects)
    exact = [reference.context(*image) for image in zip(queries, keys, values, strict=True)]
    assert torch.allclose(found, context.out(torch.tensor(exact)), atol=1e-5)
    order = torch.randperm(classes)
    assert torch.allclose(context(pixels, coarse[:, order]), found, atol=1e-6)


def test_context_in_half_precision_keeps_its_softmaxes_exact():
    built = lively(head("ocr", width=8))
    exact = built(maps())
    with torch.autocast("cpu", torch.bfloat16):
        found = built(maps())
    assert torch.allclose(found.float(), exact, atol=0.05)


def test_a_context_alike_everywhere_is_the_mean():
    control = lively(head("ocr_global", width=8)).context
    pixels = torch.randn(2, 8, 5, 7)
    found = control(pixels, None)
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))
    assert torch.allclose(control(pixels.flip(3), None), found, atol=1e-6)


@pytest.mark.parametrize("width", [8, 64, 512])
def test_the_control_has_as_many_weights(width):
    with torch.device("meta"):
        ocr, conv, none = (head(n, width=width) for n in ("ocr", "ocr_conv", "ocr_none"))
    count = [sum(p.numel() for p in built.parameters()) for built in (ocr, conv, none)]
    # Few steps to choose from at small widths.
    assert count[1] == pytest.approx(count[0], rel=0.02 if width > 8 else 0.1)
    assert count[2] < count[1]


@pytest.mark.parametrize(
    ("strides", "channels"), [([4, 8, 8], 16), ([4, 8, 16], 24), ([2, 4], 16), ([14, 14], 8)]
)
def test_auxiliary_scores_come_from_before_the_last_map_where_the_grid_is_the_same(
    strides, channels
):
    places = [Positions(stride) for stride in strides]
    built = HEADS["ocr"](Shape(CHANNELS[: len(strides)], places, 4))
    assert built.coarse[0][0].in_channels == channels


def test_other_scales_are_fused_by_the_largest_score():
    torch.manual_seed(0)
    one = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1]).eval()
    many = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1], scales=[0.5, 0.75]).eval()
    many.load_state_dict(one.state_dict())
    images = torch.randn(2, 3, 41, 56)
    with torch.inference_mode():
        found = many.outputs(images)
        assert list(found) == ["", "x1", "x0.5", "x0.75"]
        found = {name: scores.logits for name, scores in found.items()}
        assert torch.equal(found["x1"], one(images))
        best = found["x1"].double()
        for name, size in (("x0.5", (20, 28)), ("x0.75", (30, 42))):
            resized = F.interpolate(images, size, mode="bilinear", align_corners=False)
            assert torch.equal(found[name], one(resized))
            best = torch.maximum(best, positions.onto(found[name], size, (41, 56), (8, 0)))
        torch.testing.assert_close(found[""].double(), best, atol=1e-5, rtol=0)
        assert torch.equal(many(images), found[""])
        assert many(images[:, :, :1, :1]).shape == (2, 3, 1, 1)


@pytest.mark.parametrize(
    ("side", "scale", "found"),
    [(41, 0.5, 20), (41, 0.75, 30), (1, 0.5, 1), (3, 1.75, 5), (10, 0.7, 7), (90, 0.7, 63)],
)
def test_sides_are_scaled_to_whole_pixels(side, scale, found):
    assert scaled(side, scale) == found


def test_a_graph_of_several_scales_is_none_of_one_size():
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1], scales=[0.5, 0.75]).eval()
    sides = {0: None, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(network, (torch.randn(2, 3, 64, 72),), dynamic_shapes=(sides,))
    images = torch.randn(2, 3, 57, 91)
    torch.testing.assert_close(graph.module()(images), network(images))


def test_auxiliary_scores_of_other_scales_are_named():
    network = Segmenter(backbones.build("small", 8), "ocr", 3, width=8, scales=[0.5])
    found = network.outputs(torch.randn(2, 3, 32, 40))
    assert list(found) == ["", "x1", "x1_aux", "x0.5", "x0.5_aux"]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 65)])
def test_images_of_any_size_have_scores(name, size):
    network = FullSize(Segmenter(backbones.build("small", 8), name, 3, [2], width=8)).eval()
    with torch.inference_mode():
        scores = network(torch.randn(1, 3, *size))
    assert scores.shape == (1, 3, *size)
    assert scores.isfinite().all()
