"""The score of masks on one split and, as far as the truth is known, on another."""

import numpy as np
import pytest

from fbr.datasets.prepared import Entry, write_index
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.tables import read_json, write_json
from fbr.masks.instances import encode
from fbr.params import MaskEval
from fbr.stages import mask_eval
from fbr.track import Run

SPLITS = {"a": "train train_aug", "b": "train_aug", "c": "train_aug", "d": "test"}


@pytest.fixture
def evaluated(job, tmp_path):
    """Score masks of which a's is right and b's is half right; there is no truth for c."""
    data = tmp_path / "data/toy"
    entries = [Entry(id, 4, 6, tuple(s.split()), (1,)) for id, s in SPLITS.items()]
    write_index(data, entries, ["background", "cat"])
    truth = np.zeros((4, 6), np.uint8)
    truth[:, :3] = 1

    def evaluated(mask: str, also: str | None) -> dict:
        made = job("mask_eval", mask=mask)
        made.numbers = MaskEval(split="train", also=also)
        made.run = Run(0)
        for id, found in (("a", truth), ("b", truth * 0), ("c", truth)):
            pictures.write_jpeg(data / f"images/{id}.jpg", np.zeros((4, 6, 3), np.uint8))
            pictures.write_mask(made.path("irn_infer", "masks") / f"{id}.png", found)
            if id != "c":
                pictures.write_mask(data / f"masks/{id}.png", truth)
        mask_eval.run(made)
        return read_json(made.out("metrics.json"))

    return evaluated


def test_the_rule_in_use_is_scored_and_an_oracle_is_not_claimed(evaluated):
    metrics = evaluated("irn", None)
    scored = ("miou", "miou_low", "miou_high", "pixel_accuracy", "boundary_iou")
    assert metrics == dict.fromkeys(scored, 1.0) | {
        "fp": 0.0,
        "fn": 0.0,
        "split": "train",
        "images": 1,
        "threshold": 0.2,
        "threshold_choice": "fixed",
        "oracle": "not swept: masks keep no scores",
        "crf": False,
    }


@pytest.mark.parametrize(
    ("mask", "oracle", "crf"),
    [
        ("crf", "not swept: masks keep no scores", True),
        ("superpixel", "not swept: masks keep no scores", False),
        ("none", "not swept: masks keep no scores", False),
    ],
)
def test_threshold_and_crf_are_those_of_the_block(evaluated, mask, oracle, crf):
    metrics = evaluated(mask, None)
    assert (metrics["threshold"], metrics["crf"], metrics["oracle"]) == (0.3, crf, oracle)


def test_a_crf_that_decides_what_is_background_has_no_threshold(evaluated):
    metrics = evaluated("crf_ppc", None)
    assert (metrics["background_power"], metrics["crf"]) == (8, True)
    assert not {"threshold", "threshold_choice"} & metrics.keys()


def test_another_split_is_named_and_says_how_many_images_have_a_truth(evaluated):
    metrics = evaluated("irn", "train_aug")
    assert metrics["miou"] == 1
    # a right, b all background: 12 of 24 cats found, 24 of 36 background predictions right.
    assert metrics["miou_train_aug"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics["images_train_aug"] == 2


def test_a_split_without_any_truth_has_no_score(evaluated):
    assert not [key for key in evaluated("irn", "test") if key.endswith("_test")]


def test_pseudo_instances_are_scored_where_the_true_ones_are_known(evaluated, job):
    made, truth = job("mask_eval", mask="irn"), np.zeros((4, 6), np.uint8)
    truth[:, :3] = [[1], [1], [2], [2]]
    pictures.write_mask(made.data.folder / "instances" / "a.png", truth)
    right = [
        {"image_id": "a", "category_id": 1, "segmentation": encode(truth == number), "score": 0.9}
        for number in (1, 2)
    ]
    file = made.path("irn_infer", "instances.json")
    for records, expected in ((right, 1.0), (right[:1], 0.5), ([], 0.0)):
        # Of b the instances are not known, so what is found there does not count.
        write_json(file, [*records, right[0] | {"image_id": "b", "score": 1.0}])
        metrics = evaluated("irn", None)
        assert metrics["AP50"] == pytest.approx(expected, abs=0.01)
        assert metrics["images_instances"] == 1
    assert "AP50" not in evaluated("crf", None)


def test_a_split_of_which_half_is_known_is_refused(evaluated, job):
    evaluated("irn", None)
    made = job("mask_eval", mask="irn")
    made.numbers = MaskEval(split="train_aug", also=None)
    said = r"masks: found 2 of the 3 images of split 'train_aug', not that of id 'c'; expected all"
    with pytest.raises(Refusal, match=said):
        mask_eval.run(made)
