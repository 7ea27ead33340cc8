"""A network on any photographs: what is written, what is not done twice, what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbr import cli
from fbr.files import maps, pictures
from fbr.files.tables import read_json, write_json
from fbr.masks.instances import decode
from fbr.nets.inputs import normalise
from fbr.params import SegEval
from fbr.stages import finders
from fbr.stages.networks import load
from fbr.stages.segmenting import applied, segment
from tests import checkout, untrained

SIZES = [(40, 56), (1, 1), (33, 70), (40, 56)]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder that is no workspace, with photographs of three sizes."""
    untrained.photographs(tmp_path / "photographs", *SIZES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*words: str) -> int:
    return cli.main(["predict", *words])


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_masks_are_those_of_the_network(place):
    model = untrained.write(place / "net", "seg_train")
    assert predict("net", "photographs", "--overlays") == 0
    network, described = load(model, torch.device("cpu"))
    numbers = finders.Masks.alone
    probable = applied(network, numbers)
    for id, size in zip("abcd", SIZES, strict=True):
        mask = pictures.read_mask(place / f"predictions/masks/{id}.png")
        image = pictures.read_image(place / f"photographs/{id}.png")
        assert np.array_equal(mask, segment(probable, image[None], [numbers], False)[0][0])
        assert mask.shape == size
        assert pictures.read_image(place / f"predictions/overlays/{id}.jpg").shape == (*size, 3)
    assert len(np.unique(pictures.read_mask(place / "predictions/masks/a.png"))) > 1
    with Image.open(place / "predictions/masks/a.png") as picture:
        assert bytes(picture.getpalette()) == pictures.PALETTE[: len(picture.getpalette())]
    note = read_json(place / "predictions/predict.json")
    assert note["classes"] == {"0": "background", "1": "cat", "2": "dog"}
    assert (note["scales"], note["flip"], note["stage"]) == ([1.0], False, "seg_train")
    assert described["stage"] == "seg_train"


def test_masks_are_seen_in_windows_where_the_numbers_say_so(place):
    model = untrained.write(place / "net", "seg_train")
    windows = {"side": 24}
    assert predict("net", "photographs", "--batch", "2", "--set", f"windows={windows}") == 0
    numbers = SegEval(**finders.Masks.alone.model_dump() | {"windows": windows})
    network, _ = load(model, torch.device("cpu"))
    network = applied(network, numbers)
    found = {p.stem: pictures.read_mask(p) for p in (place / "predictions/masks").iterdir()}
    for id in "abcd":
        image = pictures.read_image(place / f"photographs/{id}.png")
        (expected,) = segment(network, image[None], [numbers], False)[0]
        assert np.mean(found[id] != expected) < 0.01  # a tie may fall otherwise
    assert predict("net", "photographs", "--out", "plain") == 0
    assert np.any(found["c"] != pictures.read_mask(place / "plain/masks/c.png"))


@pytest.mark.parametrize(
    ("stage", "file"), [("seg_train", "masks/b.png"), ("cam_train", "cams/b.npz")]
)
def test_a_photograph_on_its_side_is_seen_upright(place, stage, file):
    untrained.write(place / "net", stage)
    upright = pictures.read_image(place / "photographs/c.png")
    (place / "turned").mkdir()
    Image.fromarray(upright).save(place / "turned/a.png")
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6  # turn me right
    Image.fromarray(np.rot90(upright)).save(place / "turned/b.png", exif=exif)
    assert predict("net", "turned", "--batch", "2", "--overlays") == 0
    found = [place / "predictions" / file.replace("b.", f"{id}.") for id in "ab"]
    assert found[0].read_bytes() == found[1].read_bytes()
    if stage == "seg_train":
        assert pictures.read_mask(found[1]).shape == SIZES[2]
    assert pictures.read_size(place / "predictions/overlays/b.jpg") == SIZES[2]


def test_run_lengths_are_the_same_masks(place):
    untrained.write(place / "net", "seg_train")
    assert predict("net", "photographs", "--out", "png") == 0
    assert predict("net", "photographs", "--out", "rle", "--format", "rle") == 0
    records = read_json(place / "rle/masks.json")
    for id, size in zip("abcd", SIZES, strict=True):
        mask = np.zeros(size, np.uint8)
        for record in (r for r in records if r["image_id"] == id):
            mask[decode(record["segmentation"])] = record["category_id"]
        assert np.array_equal(mask, pictures.read_mask(place / f"png/masks/{id}.png"))


def test_a_batch_changes_nothing(place):
    untrained.write(place / "net", "seg_train")
    assert predict("net", "photographs", "--out", "one") == 0
    assert predict("net", "photographs", "--out", "three", "--batch", "3") == 0
    for id in "abcd":
        one, three = (pictures.read_mask(place / f"{f}/masks/{id}.png") for f in ("one", "three"))
        assert np.mean(one != three) < 0.01  # a tie may fall otherwise


def test_a_cam_network_writes_maps_of_what_it_is_told_or_recognises(place):
    untrained.write(place / "net", "cam_train")
    assert predict("net", "photographs/a.png", "--class", "dog", "--class", "cat") == 0
    found = maps.read(place / "predictions/cams/a.npz")
    assert found.keys.tolist() == [1, 2]
    assert found.cam.shape == (2, 10, 14)
    assert found.size == (40, 56)
    assert predict("net", "photographs", "--out", "told", "--overlays") == 0
    network, _ = load(place / "net/model.safetensors", torch.device("cpu"))
    for id in "abcd":
        image = pictures.read_image(place / f"photographs/{id}.png")
        with torch.inference_mode():
            scores = network.recognise(normalise(torch.from_numpy(image)[None]))[0]
        keys = maps.read(place / f"told/cams/{id}.npz").keys
        assert keys.tolist() == [1 + i for i, score in enumerate(scores) if score > 0]
        assert (place / f"told/overlays/{id}.jpg").is_file()


def test_an_instance_network_writes_records(place):
    untrained.write(place / "net", "wsis_train")
    words = ("net", "photographs/a.png", "photographs/c.png", "--set", "score=0.0", "--overlays")
    assert predict(*words) == 0
    records = read_json(place / "predictions/detections.json")
    assert {r["image_id"] for r in records} == {"a", "c"}
    sizes = {"a": (40, 56), "c": (33, 70)}
    for record in records:
        assert decode(record["segmentation"]).shape == sizes[record["image_id"]]
        assert 0 <= record["score"] <= 1
        assert record["category_id"] in (1, 2)


def test_what_is_finished_is_not_done_again(place, monkeypatch):
    untrained.write(place / "net", "seg_train")
    assert predict("net", "photographs/[ab].png", "--format", "rle") == 0
    done = []
    real = finders.segment

    def counting(network, images, *rest):
        done.append(images.shape[1:3])
        return real(network, images, *rest)

    monkeypatch.setattr(finders, "segment", counting)
    assert predict("net", "photographs/", "--format", "rle") == 0
    assert done == [SIZES[2], SIZES[3]]
    whole = (place / "predictions/masks.json").read_bytes()
    # A half-written file, a picture of its own, and an image that was replaced are done; no other.
    (place / "predictions/.parts/a.json").rename(place / "predictions/.parts/a.json.partial")
    (place / "photographs/c.png").write_bytes((place / "photographs/a.png").read_bytes())
    done.clear()
    assert predict("net", "photographs", "--format", "rle") == 0
    assert done == [SIZES[0], SIZES[0]]
    assert not list(place.rglob("*.partial"))
    os.remove(place / "photographs/c.png")
    untrained.photographs(place / "photographs", *SIZES)
    assert predict("net", "photographs", "--format", "rle") == 0
    assert (place / "predictions/masks.json").read_bytes() == whole
    done.clear()
    assert predict("net", "photographs", "--format", "rle") == 0
    assert not done


def test_a_stop_in_the_middle_leaves_whole_files_and_goes_on(place, monkeypatch, capsys):
    untrained.write(place / "net", "seg_train")
    pictures_seen = []
    real = finders.segment

    def stopping(network, images, *rest):
        if len(pictures_seen) == 2:
            raise KeyboardInterrupt
        pictures_seen.append(images)
        return real(network, images, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(finders, "segment", stopping)
        assert predict("net", "photographs") == 130
    assert len(files(place / "predictions/masks")) == 2
    monkeypatch.setattr(finders, "segment", real)
    assert predict("net", "photographs") == 0
    assert "predict: 2 of 4 images to do" in capsys.readouterr().err
    assert files(place / "predictions/masks") == ["a.png", "b.png", "c.png", "d.png"]


def test_a_network_of_the_workspace_takes_the_numbers_of_its_evaluation(place, capsys):
    for name in ("params.yaml", "dvc.yaml"):
        (place / name).write_bytes((checkout.ROOT / name).read_bytes())
    folder = "results/toy/s0/plain/crf/deeplabv2"
    untrained.write(place / folder / "seg_train", "seg_train")
    assert predict(folder, "photographs/a.png") == 0
    assert (
        "scales [1.0], flip True, crf None, windows None (seg_eval of params.yaml)"
        in capsys.readouterr().err
    )
    assert predict(folder, "photographs/a.png", "--out", "b", "--set", "scales=[0.5, 2]") == 0
    assert read_json(place / "b/predict.json")["scales"] == [0.5, 2.0]
    assert read_json(place / "b/predict.json")["flip"] is True


def test_a_broken_params_is_refused_where_it_holds_the_numbers(place, capsys):
    (place / "dvc.yaml").write_bytes((checkout.ROOT / "dvc.yaml").read_bytes())
    (place / "params.yaml").write_text("data: [")
    untrained.write(place / "results/toy/s0/plain/crf/deeplabv2/seg_train", "seg_train")
    untrained.write(place / "net", "seg_train")
    assert predict("results/toy/s0/plain/crf/deeplabv2", "photographs/a.png") == 2
    assert "fbr: params.yaml: not valid YAML" in capsys.readouterr().err
    assert not (place / "predictions").exists()
    assert predict("net", "photographs/a.png") == 0


def test_a_note_that_a_kill_left_half_written_is_in_nobodys_way(place):
    untrained.write(place / "net", "seg_train")
    (place / "predictions").mkdir()
    (place / "predictions/predict.json.partial").write_text("{")
    assert predict("net", "photographs/a.png") == 0
    assert files(place / "predictions") == ["masks/a.png", "predict.json"]


def spoil_irn(place):
    described = read_json(place / "net/model.json") | {"stage": "irn_train"}
    write_json(place / "net/model.json", described)


def spoil_other_results(place):
    (place / "predictions").mkdir()
    (place / "predictions/thesis.tex").write_text("all of it")


def spoil_earlier_network(place):
    assert predict("net", "photographs/a.png") == 0
    network = (place / "net/model.json").read_text()
    (place / "net/model.json").write_text(network)
    untrained.write(place / "net", "cam_train")
    untrained.write(place / "net", "seg_train")
    assert predict("net", "photographs/a.png", "--set", "flip=false") == 0


def spoil_rates(place):
    """The same weights, seen through other holes."""
    assert predict("net", "photographs/a.png") == 0
    described = read_json(place / "net/model.json") | {"rates": [2, 3]}
    write_json(place / "net/model.json", described)


def nothing(place):
    pass


def spoil_image(place):
    (place / "photographs/z.jpg").write_text("this is no image")


def spoil_twin(place):
    (place / "photographs/a.bmp").write_bytes((place / "photographs/a.png").read_bytes())


def spoil_weights(place):
    (place / "net/model.safetensors").write_bytes(b"no weights")


def spoil_empty(place):
    (place / "empty").mkdir()
    (place / "empty/readme.txt").write_text("none here")


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (nothing, ("nett", "photographs"), "nett: found no network, expected a model.safetensors"),
        (nothing, ("photographs/a.png", "photographs"), "photographs/a.png: found no network"),
        (nothing, ("net", "fotos"), "fotos: found no such file, expected an image, a folder"),
        (nothing, ("net", "photographs/*.gif"), "photographs/*.gif: found no such file"),
        (spoil_empty, ("net", "empty"), "empty: found no image in this folder, expected .jpg,"),
        (spoil_image, ("net", "photographs"), "photographs/z.jpg: cannot be read as a picture"),
        (spoil_empty, ("net", "empty/readme.txt"), "empty/readme.txt: cannot be read as a picture"),
        (spoil_twin, ("net", "photographs"), "found 'a' twice, also as photographs/a.bmp"),
        (spoil_weights, ("net", "photographs"), "cannot be read as safetensors"),
        (spoil_irn, ("net", "photographs"), "network of stage 'irn_train', which is told more"),
        (spoil_other_results, ("net", "photographs"), "predictions: found other things here"),
        (spoil_earlier_network, ("net", "photographs", "--set", "flip=true"), "of other numbers"),
        (spoil_rates, ("net", "photographs"), "found results of another network"),
        (nothing, ("net", "photographs", "--set", "split=val"), "found 'split', which chooses"),
        (nothing, ("net", "photographs", "--format", "jpg"), "found 'jpg', expected one of png"),
        (nothing, ("net", "photographs", "--class", "cat"), "finds the classes itself"),
        (nothing, ("net", "photographs", "--set", "scale=2"), "unknown key 'scale'"),
        (nothing, ("net", "photographs", "--set", "scales=[0]"), "--set: scales"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(place, capsys, spoil, words, said):
    untrained.write(place / "net", "seg_train")
    spoil(place)
    before = files(place)
    capsys.readouterr()
    assert predict(*words) == 2
    *_, last = lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("fbr: ")] == [last]
    assert said in last
    assert files(place) == before


def test_an_unknown_class_is_refused(place, capsys):
    untrained.write(place / "net", "cam_train")
    assert predict("net", "photographs", "--class", "dgo") == 2
    assert "--class: found 'dgo', expected one of cat, dog. Did you mean 'dog'?" in (
        capsys.readouterr().err
    )


def test_the_note_is_json_and_names_the_model(place):
    untrained.write(place / "net", "seg_train")
    assert predict("net/model.json", "photographs/a.png") == 0
    note = json.loads((place / "predictions/predict.json").read_text())
    assert note["model"] == "net/model.safetensors"


def test_an_image_that_breaks_off_is_named_and_the_others_are_kept(place, capsys):
    untrained.write(place / "net", "seg_train")
    whole = (place / "photographs/c.png").read_bytes()
    (place / "photographs/c.png").write_bytes(whole[: len(whole) // 2])
    assert predict("net", "photographs") == 2
    assert "photographs/c.png: cannot be read as a picture" in capsys.readouterr().err
    (place / "photographs/c.png").write_bytes(whole)
    assert predict("net", "photographs") == 0
    assert files(place / "predictions/masks") == ["a.png", "b.png", "c.png", "d.png"]


def test_a_line_is_said_once_however_many_commands_ran(place, capsys):
    untrained.write(place / "net", "seg_train")
    for _ in range(2):
        assert predict("net", "photographs/a.png") == 0
        assert capsys.readouterr().err.count("1 images to do") == 1


def test_maps_are_raised_to_the_power_of_the_numbers(place):
    untrained.write(place / "net", "cam_train")
    assert predict("net", "photographs", "--class", "cat") == 0
    assert (
        predict("net", "photographs", "--class", "cat", "--out", "squared", "--set", "power=2") == 0
    )
    for id in "abcd":
        plain, squared = (
            maps.read(place / f"{folder}/cams/{id}.npz").cam
            for folder in ("predictions", "squared")
        )
        assert np.abs(plain**2 - squared).max() < 2e-3
    assert np.abs(plain - squared).max() > 0.02


def test_another_photograph_of_the_same_name_is_refused(place, capsys):
    untrained.write(place / "net", "seg_train")
    untrained.photographs(place / "others", (20, 30))
    assert predict("net", "photographs/a.png") == 0
    assert predict("net", "photographs/b.png") == 0
    before = files(place / "predictions")
    assert predict("net", "others/a.png") == 2
    said = capsys.readouterr().err
    assert str(place / "photographs/a.png") in said
    assert str(place / "others/a.png") in said
    assert files(place / "predictions") == before
    assert predict("net", "photographs") == 0
    note = read_json(place / "predictions/predict.json")
    assert note["images"] == {id: str(place / f"photographs/{id}.png") for id in "abcd"}


def test_numbers_are_read_as_in_params_yaml(place):
    untrained.write(place / "net", "cam_train")
    assert predict("net", "photographs", "--class", "cat", "--set", "power=5e-1") == 0
    assert read_json(place / "predictions/predict.json")["power"] == 0.5


@pytest.mark.parametrize("size", [(2, 700), (1, 400), (400, 1)])
def test_instances_are_sought_in_a_very_long_image(place, size):
    untrained.photographs(place / "long", size)
    untrained.write(place / "net", "wsis_train")
    assert predict("net", "long", "--set", "score=0.0") == 0
    found = read_json(place / "predictions/detections.json")
    assert found
    assert all(decode(record["segmentation"]).shape == size for record in found)


def test_an_image_of_16_bits_is_refused_before_any_work(place, capsys):
    untrained.write(place / "net", "seg_train")
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(place / "photographs/deep.png")
    assert predict("net", "photographs") == 2
    assert "more than 8 bits a channel" in capsys.readouterr().err
    assert not (place / "predictions").exists()
