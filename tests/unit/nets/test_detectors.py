"""Mask R-CNN on our backbones, as small as it gets."""

import pytest
import torch

from fbr.nets import backbones
from fbr.nets.detectors import DETECTORS

SIDE = 64


def network(anchors=(16, 32, 64), name="small", stride=8, **limits):
    torch.manual_seed(0)
    backbone = backbones.build(name, stride)
    return DETECTORS["maskrcnn"](backbone, 3, list(anchors), 16, 16, SIDE, **limits)


def targets(*counts: int) -> list[dict]:
    """As many square instances an image."""
    found = []
    for count in counts:
        masks = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
        corners = torch.tensor([[4, 4, 24, 24], [30, 30, 60, 60]])[:count].float()
        for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
        labels = torch.ones(count, dtype=torch.long)
        found.append({"boxes": corners.reshape(-1, 4), "labels": labels, "masks": masks})
    return found


LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize("counts", [(2, 1), (0, 2), (0, 0), (1,)])
def test_learns_from_any_number_of_instances(counts):
    found = network().train()(list(torch.randn(len(counts), 3, SIDE, SIDE)), targets(*counts))
    assert set(found) == LOSSES
    total = sum(found.values())
    total.backward()
    assert total.isfinite()


def test_every_weight_learns_where_there_are_instances():
    detector = network().train()
    sum(detector(list(torch.randn(2, 3, SIDE, SIDE)), targets(2, 2)).values()).backward()
    assert all(p.grad is not None for p in detector.parameters())


def test_detections_are_masks_of_the_images_size():
    detector = network(score=0.0, detections=5).eval()
    with torch.inference_mode():
        found = detector([torch.randn(3, 50, 70), torch.randn(3, SIDE, SIDE)])
    for one, size in zip(found, [(50, 70), (SIDE, SIDE)], strict=True):
        assert one["masks"].shape == (len(one["labels"]), 1, *size)
        assert 0 < len(one["scores"]) <= 5
        assert set(one["labels"].tolist()) <= {1, 2}


def test_nothing_above_the_score_is_nothing():
    with torch.inference_mode():
        found = network(score=1.0).eval()([torch.randn(3, SIDE, SIDE)])[0]
    assert len(found["labels"]) == 0
    assert found["masks"].shape == (0, 1, SIDE, SIDE)


@pytest.mark.parametrize(
    ("name", "stride", "anchors", "levels"),
    [
        ("small", 8, (16, 32), 2),
        ("small", 8, (16,), 1),
        ("small", 16, (8, 16, 32, 64), 3),
        ("mobilenet_v2", 32, (32, 64, 128, 256, 512), 4),
        ("mobilenet_v2", 32, (32, 64, 128), 3),
    ],
)
def test_anchors_and_levels_may_differ_in_number(name, stride, anchors, levels):
    detector = network(anchors, name, stride, score=0.0).eval()
    sizes = detector.rpn.anchor_generator.sizes
    assert len(sizes) == levels
    assert len({len(s) for s in sizes}) == 1
    assert [s[0] for s in sizes] == list(anchors[:levels])
    assert set(anchors) <= {size for level in sizes for size in level}
    with torch.inference_mode():
        assert len(detector([torch.randn(3, SIDE, SIDE)])) == 1


def test_images_are_taken_as_they_are():
    """They come normalised: the detector must not do it again."""
    detector = network().eval()
    images, _ = detector.transform([torch.full((3, SIDE, SIDE), 2.0)])
    assert torch.equal(images.tensors, torch.full((1, 3, SIDE, SIDE), 2.0))
