import math

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.masks.seeds import label_map
from fbr.metrics.semantic import Confusion, Spill, ThresholdCurve
from tests.reference import semantic as reference

SIZES = [(1, 1), (1, 9), (13, 17)]
CLASSES = 5


def masks(size, classes=CLASSES, seed=0):
    """A prediction and a target with a fifth of void pixels each."""
    random = np.random.default_rng(seed)
    pair = random.integers(0, classes, (2, *size), dtype=np.uint8)
    pair[random.random(pair.shape) < 0.2] = 255
    return pair


def maps(size, k, classes=CLASSES, seed=0, kind=np.float16):
    """Scores on and between the thresholds, with ties; k keys in no order; a target."""
    random = np.random.default_rng(seed)
    cam = random.choice(np.arange(140) / 200, (k, *size)).astype(kind)
    keys = (random.permutation(classes - 1)[:k] + 1).astype(np.uint8)
    return cam, keys, masks(size, classes, seed)[1]


def counted(*images, classes=CLASSES):
    confusion = Confusion(classes)
    for pred, target in images:
        confusion.update(pred, target)
    return confusion


def curve_of(*images, classes=CLASSES, thresholds=None):
    curve = ThresholdCurve(classes, thresholds)
    for image in images:
        curve.update(*image)
    return curve


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", [1, 2, 21, 255])
def test_confusion_is_the_count_of_pairs(size, classes):
    pred, target = masks(size, classes)
    counts = counted((pred, target), classes=classes).counts
    assert counts.tolist() == reference.confusion(pred, target, classes)


@pytest.mark.parametrize("size", SIZES)
def test_rates_are_the_equations(size):
    confusion = counted(masks(size), masks(size, classes=3, seed=1))
    expected = reference.rates(confusion.counts.tolist())
    rows = confusion.per_class()
    for number, (row, exact) in enumerate(zip(rows, expected, strict=True)):
        assert row.pop("id") == number
        assert row.pop("pixels") == confusion.counts[number].sum()
        assert row == pytest.approx(exact, nan_ok=True)
    assert confusion.iou() == pytest.approx([row["iou"] for row in expected], nan_ok=True)
    miou = reference.mean([row["iou"] for row in expected])
    assert confusion.miou() == pytest.approx(miou, nan_ok=True)


def test_small_case_by_hand():
    target = np.array([[0, 0, 1, 1, 255]], np.uint8)
    pred = np.array([[0, 1, 1, 255, 1]], np.uint8)
    confusion = counted((pred, target), classes=3)
    assert confusion.iou() == pytest.approx([1 / 2, 1 / 3, math.nan], nan_ok=True)
    assert confusion.miou() == pytest.approx(5 / 12)
    assert confusion.pixel_accuracy() == 0.5
    row = confusion.per_class()[1]
    assert row["pixels"] == 2
    assert (row["precision"], row["recall"]) == (0.5, 0.5)
    assert (row["fp"], row["fn"]) == pytest.approx((1 / 3, 1 / 3))


def test_perfect_prediction_scores_one():
    target = masks((13, 17))[1]
    confusion = counted((np.where(target == 255, 1, target).astype(np.uint8), target))
    assert confusion.miou() == confusion.pixel_accuracy() == 1


def test_absent_class_is_left_out_and_invented_class_scores_zero():
    nothing = np.zeros((2, 2), np.uint8)
    assert counted((nothing, nothing), classes=3).miou() == 1
    assert counted((nothing + 1, nothing), classes=3).miou() == 0


def test_void_prediction_costs_recall_not_precision():
    ones = np.ones((4, 4), np.uint8)
    holes = ones.copy()
    holes[0] = 255
    row = counted((holes, ones), classes=2).per_class()[1]
    assert (row["iou"], row["precision"], row["recall"]) == (0.75, 1, 0.75)


@pytest.mark.filterwarnings("error")
def test_nothing_but_void_is_nan_without_a_warning():
    void = np.full((3, 3), 255, np.uint8)
    confusion = counted((void, void))
    assert not confusion.counts.any()
    assert math.isnan(confusion.miou())
    assert math.isnan(confusion.pixel_accuracy())


def test_merged_confusions_equal_one():
    images = [masks((13, 17), seed=seed) for seed in range(3)]
    merged = counted(images[0])
    merged.merge(counted(*images[1:]))
    assert np.array_equal(merged.counts, counted(*images).counts)


def test_classes_may_be_renumbered():
    pred, target = masks((13, 17))
    names = np.arange(256, dtype=np.uint8)
    names[:CLASSES] = [0, 3, 1, 4, 2]
    renamed = counted((names[pred], names[target])).iou()
    assert np.array_equal(renamed[names[:CLASSES]], counted((pred, target)).iou())


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"\(2, 3\), expected \(3, 2\)"),
        (np.full((2, 3), 5, np.uint8), np.zeros((2, 3), np.uint8), r"prediction holds ids \[5\]"),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 254, np.uint8), r"target holds ids \[254\]"),
        (np.full((2, 3), 9, np.uint8), np.full((2, 3), 255, np.uint8), r"prediction .* \[9\]"),
        (np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8), "prediction is int64"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3), np.uint8), r"\(2, 3, 3\), expected"),
    ],
)
def test_confusion_refuses_by_name_and_counts_nothing(pred, target, message):
    confusion = Confusion(CLASSES)
    with pytest.raises(Refusal, match=f"image 2007_000032: .*{message}"):
        confusion.update(pred, target, "2007_000032")
    assert not confusion.counts.any()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [0, 1, 4])
def test_curve_is_label_map_at_every_threshold(size, k, kind):
    cam, keys, target = maps(size, k, kind=kind)
    curve = curve_of((cam, keys, target))
    assert len(curve.thresholds) == 60
    for threshold in curve.thresholds:
        pred = label_map(cam, keys, threshold)
        exact = reference.confusion(pred, target, CLASSES)
        assert curve.confusion(threshold).counts.tolist() == exact


def test_scores_one_bit_around_a_threshold():
    at = np.float32(0.3)
    cam = np.array([[[np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(1))]]])
    curve = curve_of((cam, np.array([1]), np.ones((1, 3), np.uint8)))
    assert curve.confusion(0.3).counts[1, :2].tolist() == [2, 1]
    assert label_map(cam, np.array([1]), 0.3).tolist() == [[0, 0, 1]]


def test_curve_rows_are_those_of_the_confusions():
    curve = curve_of(*(maps(size, 3, seed=seed) for seed, size in enumerate(SIZES)))
    rows = curve.curve()
    assert {len(column) for column in rows.values()} == {60}
    for at, threshold in enumerate(rows["threshold"]):
        confusion = curve.confusion(threshold)
        exact = reference.rates(confusion.counts.tolist())
        assert rows["miou"][at] == pytest.approx(confusion.miou())
        assert rows["fp"][at] == pytest.approx(reference.mean([row["fp"] for row in exact[1:]]))
        assert rows["fn"][at] == pytest.approx(reference.mean([row["fn"] for row in exact[1:]]))


def test_best_is_the_lowest_threshold_of_the_top():
    cam = np.array([[[0.1, 0.5, 0.9]]], np.float32)
    target = np.array([[0, 0, 2]], np.uint8)
    curve = curve_of((cam, np.array([2]), target), thresholds=[0.8, 0.0, 0.6, 0.5, 0.6])
    assert curve.thresholds.tolist() == [0.0, 0.5, 0.6, 0.8]
    assert curve.best() == (0.5, 1.0)


def test_merged_curves_equal_one():
    images = [maps((13, 17), 3, seed=seed) for seed in range(3)]
    merged = curve_of(images[0])
    merged.merge(curve_of(*images[1:]))
    assert np.array_equal(merged.histogram, curve_of(*images).histogram)


@pytest.mark.filterwarnings("error")
def test_curve_of_background_alone():
    curve = curve_of(maps((13, 17), 0, classes=1), classes=1)
    assert (curve.curve()["miou"] == 1).all()
    assert np.isnan(curve.curve()["fp"]).all()


def test_curve_of_void_has_no_best():
    cam, keys, target = maps((3, 3), 2)
    curve = curve_of((cam, keys, np.full_like(target, 255)))
    assert not curve.histogram.any()
    with pytest.raises(Refusal, match="no labelled pixel"):
        curve.best()


def test_threshold_off_the_curve_is_refused():
    with pytest.raises(Refusal, match=r"0\.225 is none of the 60 .*0\.00 to 0\.59"):
        ThresholdCurve(CLASSES).confusion(0.225)


@pytest.mark.parametrize(
    ("keys", "size", "stray", "message"),
    [
        ([1, 9], (2, 3), 0, r"map keys are \[1, 9\], expected 2 different ids in 1\.\.4"),
        ([0, 1], (2, 3), 0, "map keys"),
        ([2, 2], (2, 3), 0, "map keys"),
        ([1], (2, 3), 0, "map keys"),
        ([1, 2], (3, 2), 0, r"target is \(3, 2\), expected \(2, 3\)"),
        ([1, 2], (2, 3), 7, r"target holds ids \[7\]"),
    ],
)
def test_curve_refuses_by_name_and_counts_nothing(keys, size, stray, message):
    curve = ThresholdCurve(CLASSES)
    target = np.full(size, stray, np.uint8)
    with pytest.raises(Refusal, match=f"image 2007_000032: {message}"):
        curve.update(np.zeros((2, 2, 3), np.float16), np.array(keys), target, "2007_000032")
    assert not curve.histogram.any()


def scene(size, k, seed=0, kind=np.float32):
    """Maps, a target with void pixels, and companion ground on a half of all pixels, any."""
    cam, _, target = maps(size, k, seed=seed, kind=kind)
    random = np.random.default_rng(seed)
    companions = random.integers(1, CLASSES, size, np.uint8) * (random.random(size) < 0.5)
    return cam, target, companions.astype(np.uint8)


def spilt(*images):
    spill = Spill()
    for image in images:
        spill.update(*image)
    return spill


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 4])
def test_spill_is_the_sum_over_pixels(k, kind):
    images = [scene(size, k, seed, kind) for seed, size in enumerate(SIZES)]
    shares = spilt(*images).shares()
    assert 0 < shares["spill_companions"] < shares["spill_background"] < 1
    assert shares == pytest.approx(reference.spill(images))


def test_spill_by_hand():
    cam = np.array([[[0.5, 0.2, 0.1, 1.0]], [[0.1, 0.4, 0.2, 0.9]]], np.float32)
    target = np.array([[2, 0, 0, 255]], np.uint8)
    companions = np.array([[3, 0, 3, 3]], np.uint8)
    shares = spilt((cam, target, companions)).shares()
    assert shares == pytest.approx({"spill_background": 0.6 / 1.1, "spill_companions": 0.2 / 1.1})


def test_spill_is_pooled_not_averaged_over_images():
    strong, weak = np.full((1, 2, 2), 0.9, np.float32), np.full((1, 2, 2), 0.1, np.float32)
    background = np.zeros((2, 2), np.uint8)
    shares = spilt((strong, background + 1), (weak, background)).shares()
    assert shares == pytest.approx({"spill_background": 0.1})


def test_images_without_companions_count_beside_those_with():
    cam, target, companions = scene((13, 17), 2)
    assert list(spilt((cam, target)).shares()) == ["spill_background"]
    once = spilt((cam, target, companions)).shares()
    twice = spilt((cam, target, companions), (cam, target)).shares()
    assert twice["spill_background"] == pytest.approx(once["spill_background"])
    assert twice["spill_companions"] == pytest.approx(once["spill_companions"] / 2)
    assert spilt((cam, target, 0 * companions)).shares()["spill_companions"] == 0


def test_the_order_of_maps_and_mirrors_do_not_change_spill():
    cam, target, companions = scene((13, 17), 4)
    mirrored = (cam[::-1, :, ::-1], target[:, ::-1], companions[:, ::-1])
    assert spilt(mirrored).shares() == pytest.approx(spilt((cam, target, companions)).shares())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["void", "no maps", "silent maps", "no image"])
def test_spill_of_nothing_is_nan_without_a_warning(case, size):
    cam, target, companions = scene(size, 2)
    images = {
        "void": [(cam, np.full_like(target, 255), companions)],
        "no maps": [(cam[:0], target, companions)],
        "silent maps": [(0 * cam, target, companions)],
        "no image": [],
    }[case]
    shares = spilt(*images).shares()
    assert len(shares) == 1 + bool(images)
    assert all(math.isnan(share) for share in shares.values())


def test_without_background_nothing_spills():
    cam, target, companions = scene((13, 17), 2)
    shares = spilt((cam, np.maximum(target, 1), companions)).shares()
    assert shares == {"spill_background": 0, "spill_companions": 0}


def test_merged_spills_equal_one():
    images = [scene((13, 17), 3, seed) for seed in range(2)] + [scene((1, 9), 2)[:2]]
    merged = spilt(images[2])
    merged.merge(spilt(*images[:2]))
    assert merged.shares() == pytest.approx(spilt(*images).shares())


@pytest.mark.parametrize("wrong", ["target", "companions mask"])
def test_spill_refuses_by_name_and_adds_nothing(wrong):
    cam, target, companions = scene((2, 3), 2)
    masks = (target.T, companions) if wrong == "target" else (target, companions.T)
    spill = Spill()
    with pytest.raises(Refusal, match=rf"image a: {wrong} is \(3, 2\), expected \(2, 3\)"):
        spill.update(cam, *masks, "a")
    assert not spill.sums.any()
    assert not spill.with_companions
