"""What single stages compute between reading and writing."""

import numpy as np
import pytest
import torch

from fbr.datasets.prepared import Entry, Prepared, write_index
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.maps import Maps
from fbr.losses.segmentation import cross_entropy
from fbr.masks import instances
from fbr.masks.affinity import feature_affinity, path_index
from fbr.masks.instances import decode, encode
from fbr.masks.seeds import label_map
from fbr.nets import backbones
from fbr.nets.heads import Segmenter
from fbr.params import IrnInfer, LossOptions, PsaInfer, load
from fbr.positions import PIXELS, Positions
from fbr.stages import psa_infer
from fbr.stages.irn_infer import refine
from fbr.stages.networks import segmenter
from fbr.stages.overlays import CONFIDENT, cam_tile, instance_tile
from fbr.stages.seg_train import SegmentationTask
from fbr.stages.truth import true_instances
from fbr.stages.wsis_train import target
from tests.checkout import ROOT
from tests.reference import positions, psa


def test_a_segmentation_task_gives_the_losses_it_is_told_to():
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1])
    batch = {"image": torch.zeros(2, 3, 16, 24), "mask": torch.full((2, 16, 24), 255).byte()}
    batch["mask"][0, :4] = 2
    losses = SegmentationTask(network, "balanced_cross_entropy")(batch)
    assert {name: int(count) for name, (_, count) in losses.items()} == {
        "background": 0,
        "foreground": 96,
    }
    with pytest.raises(Refusal, match=r"loss: found 'cross_entropi', .* mean 'cross_entropy'\?"):
        SegmentationTask(network, "cross_entropi")


def test_every_output_of_a_segmenter_has_its_losses():
    network = Segmenter(backbones.build("small", 8), "ocr", 3, width=8, scales=[0.5])
    torch.manual_seed(0)
    batch = {"image": torch.randn(2, 3, 16, 24), "mask": torch.ones(2, 16, 24).byte()}
    task = SegmentationTask(network, "cross_entropy", LossOptions(aux=0.25, grid="logits"))
    network.eval()
    losses = task(batch)
    ends = {"": (2, 3), "_x1": (2, 3), "_x1_aux": (2, 3), "_x0.5": (1, 2), "_x0.5_aux": (1, 2)}
    assert {n: int(count) for n, (_, count) in losses.items()} == {
        f"cross_entropy{end}": 2 * h * w for end, (h, w) in ends.items()
    }
    logits = network.outputs(batch["image"])["x0.5_aux"].logits
    exact, _ = cross_entropy(logits, torch.ones(2, 1, 2))
    assert losses["cross_entropy_x0.5_aux"][0].item() == pytest.approx(0.25 * exact.item())


@pytest.mark.parametrize("size", [(16, 24), (33, 41), (1, 5)])
@pytest.mark.parametrize("grid", ["image", "logits"])
def test_scores_meet_masks_where_positions_lie(size, grid):
    """A view of half the image has its positions at pixels of that half."""
    torch.manual_seed(0)
    network = Segmenter(backbones.build("small", 8), "deeplabv2", 3, [1], scales=[0.5]).eval()
    mask = torch.randint(0, 3, (2, *size)).byte()
    images = torch.randn(2, 3, *size)
    for name, scores in network.outputs(images).items():
        view = size if name in ("", "x1") else tuple(max(1, side // 2) for side in size)
        assert tuple(scores.view) == view
        logits, ids = scores.beside(mask, grid)
        if grid == "image":
            expected = positions.drawn(scores.logits.detach(), view, size, (8, 0), False)
            torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=0)
            assert ids is mask
            continue
        assert logits is scores.logits
        for axis, (side, seen) in enumerate(zip(size, view, strict=True)):
            pixels = [((j * 8 + 0.5) * side / seen - 0.5) for j in range(-(-seen // 8))]
            index = torch.tensor([min(max(int(p + 0.5), 0), side - 1) for p in pixels])
            expected = (mask if axis == 0 else expected).index_select(1 + axis, index)
        assert torch.equal(ids, expected)


TOY = [name for name, recipes in load(ROOT / "params.yaml").seg.items() if "toy" in recipes]


@pytest.mark.parametrize("name", TOY)
def test_every_recipe_of_the_toy_world_learns_in_all_its_parts(job, name):
    numbers = job("seg_train", seg=name).numbers
    network = segmenter(backbones.build("small", 8), numbers.model_dump(), 7)
    task = SegmentationTask(network, numbers.loss, numbers.loss_options).train()
    mask = torch.randint(0, 7, (2, 4, 6)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    losses = task({"image": torch.randn(2, 3, 32, 48), "mask": mask.byte()})
    sum(total / count for total, count, *_ in losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_targets_of_a_detector_are_boxes_labels_and_masks():
    instances = torch.zeros(8, 9, dtype=torch.uint8)
    instances[1:4, 2:7] = 1
    instances[5:8, 0:2] = 3
    classes = torch.tensor([5, 9, 2], dtype=torch.uint8)
    found = target(instances, classes)
    assert found["boxes"].tolist() == [[2, 1, 6, 3], [0, 5, 1, 7]]
    assert found["labels"].tolist() == [5, 2]
    assert [int(m.sum()) for m in found["masks"]] == [15, 6]


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(2, 3), slice(0, 5)), (slice(0, 5), slice(2, 3))]
)
def test_instances_one_pixel_thin_are_left_out(rows, columns):
    instances = torch.zeros(6, 6, dtype=torch.uint8)
    instances[rows, columns] = 1
    found = target(instances, torch.tensor([4], dtype=torch.uint8))
    assert [len(found[k]) for k in ("boxes", "labels", "masks")] == [0, 0, 0]
    assert found["boxes"].shape == (0, 4)


def test_an_image_without_instances_has_empty_targets():
    found = target(torch.zeros(4, 5, dtype=torch.uint8), torch.zeros(254, dtype=torch.uint8))
    assert found["boxes"].shape == (0, 4)
    assert found["masks"].shape == (0, 4, 5)


def test_ground_truth_has_the_class_that_most_of_an_instance_shows(tmp_path):
    instances = np.zeros((4, 6), np.uint8)
    instances[:2, :3], instances[2:, 3:], instances[0, 5], instances[3, 0] = 1, 2, 255, 4
    mask = np.zeros((4, 6), np.uint8)
    mask[:2, :3], mask[0, 0], mask[2:, 3:], mask[3, 5] = 2, 1, 255, 1
    entry = Entry("a", 4, 6, ("val",), (1, 2))
    write_index(tmp_path, [entry], ["background", "cat", "dog"])
    pictures.write_mask(tmp_path / "instances" / "a.png", instances)
    pictures.write_mask(tmp_path / "masks" / "a.png", mask)
    records = true_instances(Prepared(tmp_path), [entry])
    # Number 4 shows the background only: no object of a class.
    assert [(r["image_id"], r["category_id"]) for r in records] == [("a", 2), ("a", 1), ("a", 255)]
    assert np.array_equal(decode(records[0]["segmentation"]), instances == 1)
    void = (instances == 255) | (mask == 255)
    assert np.array_equal(decode(records[2]["segmentation"]), void)


CELLS = Positions(4, 1.5)  # in the middles, where maps are kept
IRN = IrnInfer(cam_power=1.0, beta=10.0, exp_times=2, radius=2, threshold=0.3)


def test_a_walk_without_edges_keeps_what_is_seen():
    cam = np.zeros((1, 4, 6), np.float16)
    cam[0, :, :3] = 1
    edge = torch.zeros(4, 6)
    edge[:, 3] = 1
    seen = Maps(np.array([7], np.uint8), cam, (16, 24))
    [(scores, records)] = refine([seen], edge[None], np.zeros((1, 2, 4, 6)), CELLS, IRN)
    assert scores.full().max() == 1
    mask = label_map(scores.full(), scores.keys, IRN.threshold)
    assert mask.shape == (16, 24)
    assert mask.dtype == np.uint8
    assert (mask[:, :8] == 7).all()
    assert (mask[:, 18:] == 0).all()
    (record,) = records
    assert record["category_id"] == 7
    assert decode(record["segmentation"]).shape == (16, 24)
    assert 0 < record["score"] <= 1


@pytest.mark.parametrize("keys", [[], [2], [1, 3]])
def test_maps_without_a_score_give_background(keys):
    cam = np.zeros((len(keys), 4, 6), np.float16)
    maps = Maps(np.array(keys, np.uint8), cam, (15, 23))
    [(scores, records)] = refine([maps], torch.zeros(1, 4, 6), np.zeros((1, 2, 4, 6)), CELLS, IRN)
    assert (scores.cam.shape, scores.size) == ((len(keys), 4, 6), (15, 23))
    assert not scores.cam.any()
    assert records == []


def test_images_that_walk_together_find_what_each_finds_alone():
    rng = np.random.default_rng(2)
    numbers = IRN.model_copy(update={"exp_times": 4, "radius": 3})
    keys = [[], [2], [1, 3], [1, 2, 5]]
    seen = [
        Maps(np.array(k, np.uint8), rng.random((len(k), 7, 9)).astype(np.float16), (27, 34))
        for k in keys
    ]
    edges = torch.from_numpy(rng.random((4, 7, 9), np.float32) ** 3)
    fields = rng.normal(scale=4, size=(4, 2, 7, 9)).astype(np.float32)
    together = refine(seen, edges, fields, CELLS, numbers)
    assert len({len(np.unique(instances.label_instances(field))) for field in fields}) > 1
    for i, (scores, records) in enumerate(together):
        alone = seen[i : i + 1], edges[i : i + 1], fields[i : i + 1]
        [(own, own_records)] = refine(*alone, CELLS, numbers)
        assert scores.keys.tolist() == keys[i]
        np.testing.assert_allclose(scores.cam, own.cam, atol=2e-3)
        assert [r["category_id"] for r in records] == [r["category_id"] for r in own_records]
        for record, other in zip(records, own_records, strict=True):
            assert record["score"] == pytest.approx(other["score"], abs=1e-3)
    affinity = torch.from_numpy(rng.random((4, len(path_index(3).displacements), 7, 9), np.float32))
    walk = PsaInfer(beta=6.0, exp_times=3, radius=3, threshold=0.5)
    for i, scores in enumerate(psa_infer.refine(seen, affinity, CELLS, walk)):
        [own] = psa_infer.refine(seen[i : i + 1], affinity[i : i + 1], CELLS, walk)
        assert scores.cam.shape == own.cam.shape == (len(keys[i]), 7, 9)
        np.testing.assert_allclose(scores.cam, own.cam, atol=2e-3)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_tile_shows_maps_of_any_number(k):
    image = np.full((12, 16, 3), 90, np.uint8)
    tile = cam_tile(image, np.zeros((k, 3, 4), np.float16))
    assert tile.shape == image.shape
    assert tile.dtype == np.uint8


def test_a_tile_shows_more_instances_than_a_picture_has_numbers():
    """Each of them over a pixel of its own; those of no confidence are not shown."""
    image, records = np.full((20, 20, 3), 90, np.uint8), []
    for at in range(400):
        mask = np.zeros(400, bool)
        mask[at] = True
        score = CONFIDENT if at % 4 else CONFIDENT / 2
        records.append({"score": score, "segmentation": encode(mask.reshape(20, 20))})
    tile = instance_tile(image, records).reshape(400, 3)
    shown = (tile != 90).any(1)
    assert shown.tolist() == [at % 4 > 0 for at in range(400)]


@pytest.mark.parametrize("keys", [[], [2], [1, 3]])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 7)])
def test_a_walk_over_features_equals_one_in_which_the_background_walks_along(keys, size):
    rng = np.random.default_rng(len(keys))
    cam = rng.random((len(keys), *size)).astype(np.float16)
    features = rng.normal(size=(4, *size)).astype(np.float32)
    numbers = PsaInfer(beta=6.0, exp_times=2, radius=3, threshold=0.5)
    affinity = feature_affinity(torch.from_numpy(features)[None], 3)
    found = Maps(np.array(keys, np.uint8), cam, size)
    [scores] = psa_infer.refine([found], affinity, PIXELS, numbers)
    mask = label_map(scores.full(), scores.keys, numbers.threshold)
    expected = psa.masks(cam.astype(float), keys, features, 6.0, 2, 3, 0.5)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected)
    assert size != (6, 7) or {*np.unique(mask)} == {0, *keys}
