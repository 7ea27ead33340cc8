"""Average precision through pycocotools against matching in loops."""

import numpy as np
import pytest

from fbr.masks.instances import encode
from fbr.metrics.instance import average_precision
from tests.reference import instance_ap as twin

SIZE = (9, 11)
LEVELS = {"AP25": 0.25, "AP50": 0.5, "AP70": 0.7, "AP75": 0.75}
AVERAGED = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def box(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def truth(image_id, category_id, mask, crowd=0):
    return {"image_id": image_id, "category_id": category_id, "mask": mask, "crowd": crowd}


def detection(image_id, category_id, mask, score):
    return {"image_id": image_id, "category_id": category_id, "mask": mask, "score": score}


def coded(records):
    return [
        {name: value for name, value in record.items() if name not in ("mask", "crowd")}
        | {"segmentation": encode(record["mask"])}
        | ({"iscrowd": 1} if record.get("crowd") else {})
        for record in records
    ]


def score(truths, detections, **options):
    return average_precision(coded(truths), coded(detections), **options)


def random_box(rng):
    top, left = rng.integers(0, 6), rng.integers(0, 7)
    return box(top, left, top + rng.integers(2, 5), left + rng.integers(2, 6))


def random_scene(rng, void):
    """Return overlapping boxes of 3 classes in 6 images, and detections that are near to them."""
    truths, detections = [], []
    for image in range(6):
        for _ in range(rng.integers(0, 5)):
            category, mask = int(rng.integers(1, 4)), random_box(rng)
            crowd = int(void and rng.random() < 0.2)
            truths.append(truth(f"i{image}", category, mask, crowd))
            for _ in range(rng.integers(0, 3)):
                near = mask & (rng.random(SIZE) < rng.uniform(0.4, 1.0))
                detections.append(detection(f"i{image}", category, near, round(rng.random(), 1)))
        for _ in range(rng.integers(0, 3)):
            false = random_box(rng)
            detections.append(detection(f"i{image}", int(rng.integers(1, 5)), false, rng.random()))
        if void:
            truths.append(truth(f"i{image}", 255, box(0, 0, 3, 3), crowd=1))
    return truths, detections


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_all_numbers_equal_the_twin(seed, void):
    truths, detections = random_scene(np.random.default_rng(seed), void)
    found = score(truths, detections)
    classes = sorted({t["category_id"] for t in truths if not t["crowd"]})
    assert sorted(found["per_class"]) == classes
    for name, levels in {**{n: [t] for n, t in LEVELS.items()}, "AP": AVERAGED}.items():
        expected = {
            number: np.mean([twin.average_precision(truths, detections, number, t) for t in levels])
            for number in classes
        }
        for number in classes:
            assert found["per_class"][number][name] == pytest.approx(expected[number], abs=1e-9)
        assert found[name] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)


def test_perfect_detections_score_one():
    truths = [
        truth(0, 1, box(0, 0, 3, 4)),
        truth(0, 2, box(4, 4, 9, 9)),
        truth(5, 1, box(1, 1, 2, 2)),
    ]
    detections = [detection(t["image_id"], t["category_id"], t["mask"], 0.9) for t in truths]
    found = score(truths, detections)
    assert all(found[name] == pytest.approx(1) for name in ("AP", *LEVELS))


def test_an_overlap_of_exactly_the_threshold_counts():
    most = box(0, 0, 1, 10) | box(1, 0, 2, 7)
    truths, detections = [truth(0, 1, box(0, 0, 2, 10))], [detection(0, 1, most, 0.5)]
    found = score(truths, detections, thresholds=(0.85, 0.86))
    assert found["AP85"] == pytest.approx(1)
    assert found["AP86"] == 0
    assert found["AP"] == pytest.approx(0.8)


def test_a_second_detection_of_an_instance_is_wrong_unless_it_comes_last():
    truths = [truth(0, 1, box(0, 0, 3, 3)), truth(0, 1, box(5, 5, 8, 8))]
    first, again, second = (
        detection(0, 1, truths[0]["mask"], 0.9),
        detection(0, 1, truths[0]["mask"], 0.8),
        detection(0, 1, truths[1]["mask"], 0.7),
    )
    assert score(truths, [first, again, second])["AP50"] < 1
    assert score(truths, [first, again | {"score": 0.1}, second])["AP50"] == pytest.approx(1)


def test_no_detections_score_zero_and_no_ground_truth_neither():
    truths = [truth(0, 1, box(0, 0, 3, 3))]
    found = score(truths, [])
    assert found["AP"] == found["AP50"] == found["per_class"][1]["AP"] == 0.0
    nothing = score([], [detection(0, 1, box(0, 0, 3, 3), 0.5)])
    assert nothing["AP"] == nothing["AP75"] == 0.0
    assert nothing["per_class"] == {}
    assert score([], [])["AP"] == 0.0


def test_classes_without_ground_truth_do_not_count():
    truths = [truth(0, 1, box(0, 0, 3, 3)), truth(0, 2, box(4, 4, 6, 6), crowd=1)]
    detections = [detection(0, 1, box(0, 0, 3, 3), 0.5), detection(0, 9, box(4, 4, 6, 6), 0.9)]
    found = score(truths, detections)
    assert list(found["per_class"]) == [1]
    assert found["AP"] == pytest.approx(1)


def test_detections_on_void_are_forgiven_for_any_class_elsewhere_not():
    truths = [truth(0, 1, box(0, 0, 3, 3)), truth(0, 255, box(5, 0, 9, 11))]
    right = detection(0, 1, box(0, 0, 3, 3), 0.5)
    assert score(truths, [right, detection(0, 1, box(6, 0, 8, 4), 0.9)])["AP"] == pytest.approx(1)
    assert score(truths, [right, detection(0, 1, box(0, 6, 3, 9), 0.9)])["AP"] < 1


def test_the_hundred_highest_detections_of_a_class_and_image_count():
    truths = [truth(0, 1, box(0, 0, 3, 3))]
    wrong = [detection(0, 1, box(5, 5, 8, 8), 0.9) for _ in range(100)]
    right = detection(0, 1, box(0, 0, 3, 3), 0.1)
    assert score(truths, [*wrong, right])["AP50"] == 0
    assert score(truths, [*wrong[1:], right])["AP50"] == pytest.approx(0.01)


def test_detections_in_an_image_without_ground_truth_are_wrong():
    truths = [truth("a", 1, box(0, 0, 3, 3))]
    right, wrong = (detection(i, 1, box(0, 0, 3, 3), s) for i, s in (("a", 0.5), ("b", 0.9)))
    assert score(truths, [right])["AP50"] == pytest.approx(1)
    assert score(truths, [right, wrong])["AP50"] == pytest.approx(0.5)


def test_the_order_of_the_records_changes_nothing_and_nothing_is_printed(capsys):
    truths, detections = random_scene(np.random.default_rng(9), void=True)
    for number, record in enumerate(detections):
        record["score"] = number / len(detections)
    assert score(truths, detections) == score(truths[::-1], detections[::-1])
    assert capsys.readouterr().out == ""
