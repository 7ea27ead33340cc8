"""submit: what does not pass the check is not there afterwards."""

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.tables import write_json
from fbr.params import Predict, Submit
from fbr.stages import seg_eval, submit

INSIDE = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture
def submitting(job, monkeypatch):
    """Submit masks of two images in which one id is everywhere."""

    def submitting(id: int):
        made = job("submit")
        made.numbers = Submit(split="train", archive=INSIDE, scales=[1.0], flip=False, crf=None)
        model = made.path("seg_train", "model")
        model.parent.mkdir(parents=True)
        model.touch()

        def predict(name, model, data, entries, folder, *rest) -> None:
            for entry in entries:
                mask = np.full((entry.height, entry.width), id, np.uint8)
                pictures.write_mask(folder / f"{entry.id}.png", mask)

        monkeypatch.setattr(submit, "predict", predict)
        submit.run(made)
        return made.out("submission")

    return submitting


def test_a_good_archive_is_written(submitting):
    assert submitting(2).stat().st_size


def test_a_bad_archive_is_refused_in_one_line_and_not_left(submitting, tmp_path):
    said = rf"^submission: {INSIDE}/a\.png holds ids up to 3, expected 0 to 2 \(and 1 more\); noth"
    with pytest.raises(Refusal, match=said):
        submitting(3)
    assert not list(tmp_path.rglob("submission.tar.gz*"))


def test_images_are_predicted_as_they_were_scored_or_as_told(job):
    made = job("submit")
    assert Submit(split="test", archive=INSIDE).way is None
    told = Submit(split="test", archive=INSIDE, scales=[1.0], flip=False, crf=None)
    assert told.way == Predict(scales=[1.0], flip=False, crf=None)
    own = made.params.seg["deeplabv2"]["voc"].seg_eval
    file = made.path("seg_eval", "metrics.json")
    write_json(file, {"miou": 0.5, **seg_eval.told(own, own.windows)})
    assert submit.scored(made) == Predict(scales=own.scales, flip=True, crf=own.crf)
    assert own.crf is not None
    write_json(file, {"miou": 0.5})
    with pytest.raises(
        Refusal, match=r"seg_eval/metrics.json, which says how seg_eval predicts: scales: missing"
    ):
        submit.scored(made)


@pytest.mark.parametrize(
    "told",
    [{"scales": [1.0]}, {"crf": None}, {"flip": True, "crf": None}, {"windows": {"side": 9}}],
)
def test_half_a_way_is_refused(told):
    with pytest.raises(ValueError, match="expected scales, flip and crf together, or none"):
        Submit(split="test", archive=INSIDE, **told)
