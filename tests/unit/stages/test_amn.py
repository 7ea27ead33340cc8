"""The second round: seeds beside the image in training, told to the network in inference."""

import numpy as np
import pytest
import torch

from fbr import track
from fbr.errors import Refusal
from fbr.files import maps, pictures, weights
from fbr.files.tables import write_json
from fbr.metrics.semantic import Confusion
from fbr.nets.inference import multi_scale
from fbr.stages import amn_infer, amn_train, cam_training, training
from tests.reference import amn as twin
from tests.unit.stages.conftest import ENTRIES

CPU = torch.device("cpu")


@pytest.fixture
def second(job):
    """A job of the second round over all three images, with a network and seeds behind it."""

    def second(stage: str = "amn_infer", **changes):
        made = job(stage, cam="amn")
        made.numbers = made.numbers.model_copy(update={"also": "val"} | changes)
        made.run = track.Run(0)
        train = job("amn_train", cam="amn")
        network = cam_training.network(train, seeded=True)
        weights.write(made.path("cam_train", "model"), network)
        write_json(made.path("cam_train", "model.json"), training.describe(train, "0123"))
        for number, entry in enumerate(ENTRIES):
            seeds = np.random.default_rng(number).integers(0, 3, (entry.height, entry.width))
            seeds[:9] = 255
            folder = made.path("crf_refine", "seeds", cam="plain", mask="amn_seeds")
            pictures.write_mask(folder / f"{entry.id}.png", seeds.astype(np.uint8))
        return made, network.eval()

    return second


def written(made) -> dict[str, maps.Maps]:
    amn_infer.run(made)
    return {e.id: maps.read(made.out("cams") / f"{e.id}.npz") for e in ENTRIES}


def test_maps_are_the_rule_over_the_mean_logits_and_lie_where_those_of_cams_do(second):
    made, network = second()
    found = written(made)
    assert made.out("cams") == made.path("cam_infer", "cams")
    for entry in ENTRIES:
        label = torch.tensor([[float(c in entry.classes) for c in (1, 2)]])
        size = (entry.height, entry.width)
        logits = multi_scale(
            lambda views, label=label: network.maps(views, label.expand(len(views), -1)),
            made.data.image(entry)[None],
            made.numbers.scales,
            made.numbers.flip,
            size,
            CPU,
            True,
            network.positions,
        )[0]
        folder = made.path("crf_refine", "seeds", cam="plain", mask="amn_seeds")
        background = pictures.read_mask(folder / f"{entry.id}.png") == 0
        whole = twin.finish(logits.double().numpy(), entry.classes, background)
        coarse = maps.resize(whole.astype(np.float32), tuple(-(-side // 4) for side in size))
        assert tuple(found[entry.id].keys) == entry.classes
        assert found[entry.id].cam == pytest.approx(coarse, abs=2e-3)


def test_dropout_in_inference_is_an_option_and_repeats(second):
    exact = written(second()[0])["a"].cam
    dropped, again = (written(second(released=True)[0])["a"].cam for _ in range(2))
    assert np.array_equal(dropped, again)
    assert not np.array_equal(dropped, exact)


def test_a_missing_seed_is_named(second):
    made, _ = second()
    folder = made.path("crf_refine", "seeds", cam="plain", mask="amn_seeds")
    (folder / "b.png").unlink()
    with pytest.raises(Refusal, match=r"plain/amn_seeds/seeds/b.png: missing"):
        amn_infer.run(made)


@pytest.mark.parametrize(
    ("stage", "cam", "method", "said"),
    [
        ("cam_train", "plain", "amn", r"cam_train.method: 'amn' learns from seeds.* amn_train"),
        ("amn_train", "amn", "plain", r"amn_train.method: 'plain' .* labels alone; .* cam_train"),
    ],
)
def test_a_method_in_the_wrong_block_is_refused(job, stage, cam, method, said):
    made = job(stage, cam=cam)
    made.numbers = made.numbers.model_copy(update={"method": method})
    with pytest.raises(Refusal, match=said):
        cam_training.network(made, seeded=stage == "amn_train")


def test_an_epoch_is_judged_by_the_likeliest_class_of_each_pixel(second, job):
    made, network = second()
    train = job("amn_train", cam="amn")
    train.numbers = train.numbers.model_copy(update={"select": "train"})
    for number, entry in enumerate(ENTRIES[:2]):
        truth = np.random.default_rng(number).integers(0, 3, (entry.height, entry.width))
        pictures.write_mask(made.data.folder / "masks" / f"{entry.id}.png", truth.astype(np.uint8))
    entries = amn_train.known(train)
    assert [entry.id for entry in entries] == ["a", "b"]
    found = amn_train.score(train, network.train(), CPU, entries)
    confusion = Confusion(3)
    for entry in entries:
        label = torch.tensor([[float(c in entry.classes) for c in (1, 2)]])
        image, size = made.data.image(entry)[None], (entry.height, entry.width)
        logits = multi_scale(
            lambda views, label=label: network.eval().maps(views, label),
            *(image, [1.0], False, size, CPU, True, network.positions),
        )[0]
        chance = logits.double().softmax(0).numpy()
        mask = np.zeros(size, np.uint8)
        for at in np.ndindex(size):
            mask[at] = max([0, *entry.classes], key=lambda c, at=at: chance[c, *at])
        confusion.update(mask, made.data.mask(entry))
    assert found == pytest.approx(confusion.miou())


def test_an_epoch_is_not_chosen_by_maps_without_a_background(job):
    train = job("amn_train", cam="amn_fbr")
    fbr = train.numbers.fbr.model_copy(update={"maps": "chance"})
    train.numbers = train.numbers.model_copy(update={"select": "train", "fbr": fbr})
    (train.data.folder / "masks").mkdir(exist_ok=True)
    pictures.write_mask(train.data.folder / "masks" / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(Refusal, match=r"amn_train.select: found fbr.maps 'chance', expected 'cam'"):
        amn_train.known(train)


def test_a_split_without_truth_chooses_no_epoch(job):
    train = job("amn_train", cam="amn")
    train.numbers = train.numbers.model_copy(update={"select": "val"})
    with pytest.raises(Refusal, match=r"amn_train.select: no image of split 'val' has ground tr"):
        amn_train.known(train)
