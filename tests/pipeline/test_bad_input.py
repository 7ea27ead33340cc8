"""Whatever is wrong with the input: one line that says so, exit code 2, nothing half-written."""

import contextlib
import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fbr import cli, engines, pipeline
from fbr.workspace import Workspace
from tests import checkout
from tests.pipeline import tiny

CAM = ("toy", "s0", "plain")
MASK = (*CAM, "crf")
SEG = (*MASK, "deeplabv2")
INST = (*CAM, "maskrcnn")
PLAIN = "results/toy/s0/plain"
MODEL = f"{PLAIN}/cam_train/model.safetensors"
ID = "toy_000003"
IMAGE, TRUTH = f"data/toy/images/{ID}.jpg", f"data/toy/masks/{ID}.png"
MAPS, PSEUDO = f"{PLAIN}/cam_infer/cams/{ID}.npz", f"{PLAIN}/crf/masks/{ID}.png"
RECIPE = "cam.plain.toy.cam_train"  # where its numbers stand
LEFT = ("run.json", "state", ".fbr")  # what a refused stage may leave, besides *.partial


@contextlib.contextmanager
def at_home(folder: Path) -> Iterator[None]:
    """Run commands in `folder` and in this process, and leave no trace of them in it."""
    log, threads = logging.getLogger("fbr"), torch.get_num_threads()
    handlers, environment, here = list(log.handlers), dict(os.environ), Path.cwd()
    os.chdir(folder)
    os.environ["FBR_TRACK"] = "off"
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        log.handlers[:] = handlers
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A workspace in which the way to a segmentation network has run, with two steps each."""
    folder = tmp_path_factory.mktemp("bad") / "trained"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(checkout.ROOT / name, folder)
    checkout.edit(folder / "params.yaml", few_steps)
    with at_home(folder):
        assert cli.main(["prepare", "toy"]) == 0
        assert cli.main(["cam_train", *CAM]) == 0
        assert cli.main(["cam_infer", *CAM]) == 0
        assert cli.main(["crf_refine", *MASK]) == 0
        assert cli.main(["seg_train", *SEG]) == 0
        assert cli.main(["seg_eval", *SEG]) == 0
    return folder


def few_steps(blocks: dict) -> None:
    tiny.shrink(blocks, train=8, val=4, test=2)
    for recipe in tiny.recipes(blocks):
        for stage in recipe.keys() & tiny.STEPS.keys():
            recipe[stage].update(steps=2, batch=4)


class Desk:
    """A workspace of one's own to spoil, and a command line that should object."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture) -> None:
        self.folder, self.capsys = folder, capsys

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    def edit(self, keys: str, value: object) -> None:
        """Set one number of params.yaml."""
        *path, last = keys.split(".")

        def change(block: dict) -> None:
            for key in path:
                block = block[key]
            block[last] = value

        checkout.edit(self / "params.yaml", change)

    def refused(self, command: str, *axes: str) -> str:
        """Run a stage like an engine, its outputs gone; return the one line that it says."""
        stage = next(s for s in pipeline.load(self / "dvc.yaml") if s.name == command)
        names = dict(zip(stage.axes, axes, strict=True))
        outputs = [self / path.format(**names) for path in stage.writes]
        for path in outputs:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        before = set(self.folder.rglob("*"))
        code = cli.main([command, *axes])
        lines = self.capsys.readouterr().err.splitlines()
        assert code == 2, lines
        assert [line for line in lines if line.startswith("fbr: ")] == lines[-1:]
        assert not [line for line in lines if "Traceback" in line]
        assert not [path for path in outputs if path.exists()]
        new = [path for path in set(self.folder.rglob("*")) - before if path.is_file()]
        assert not [path for path in new if not self.may_stay(path)]
        return lines[-1]

    def may_stay(self, path: Path) -> bool:
        parts = path.relative_to(self.folder).parts
        return any(part in LEFT or part.endswith(".partial") for part in parts)


@pytest.fixture
def desk(trained, tmp_path, capsys) -> Iterator[Desk]:
    folder = shutil.copytree(trained, tmp_path / "desk")
    capsys.readouterr()
    with at_home(folder):
        yield Desk(folder, capsys)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("cam_trian", *CAM), "unknown command 'cam_trian'"),
        (("cam_trian", *CAM), "Did you mean 'cam_train'?"),
        (("cam_train", "toy", "s0", "plian"), "cam 'plian' is no block of params.yaml"),
        (("cam_train", "toy", "s0", "plian"), "Did you mean 'plain'?"),
        (
            ("seg_train", *CAM, "irm", "deeplabv2"),
            "expected one of crf, crf_ppc, amn_seeds, irn, psa_seeds, psa, superpixel, none",
        ),
        (("crf_refine", *CAM, "irn"), "mask.irn.toy: found no block 'crf_refine'"),
        (("prepare", "toyy"), "Did you mean 'toy'?"),
    ],
)
def test_a_wrong_word(desk, command, said):
    outputs = set(desk.folder.rglob("*"))
    assert cli.main(list(command)) == 2
    (line,) = desk.capsys.readouterr().err.splitlines()
    assert line.startswith("fbr: ")
    assert said in line
    assert set(desk.folder.rglob("*")) == outputs


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (f"{RECIPE}.stepz", 3, f"{RECIPE}.stepz: unknown key 'stepz', known: network"),
        (f"{RECIPE}.stepz", 3, "Did you mean 'steps'?"),
        (f"{RECIPE}.steps", "many", f"{RECIPE}.steps: found 'many'"),
        (f"{RECIPE}.steps", 0, f"{RECIPE}.steps: found 0: Input should be greater than or equal"),
        (f"{RECIPE}.lr", float("nan"), f"{RECIPE}.lr: found nan"),
        ("cam.plain.toy.cam_eval.threshold", 1.5, "less than or equal to 1"),
        (f"{RECIPE}.optimizer", "adamm", "expected one of sgd, adam, adamw. Did you mean 'adam"),
        (f"{RECIPE}.network.name", "smal", f"{RECIPE}.network.name: found 'smal', expected one of"),
        (f"{RECIPE}.network.name", "smal", "Did you mean 'small'?"),
        (f"{RECIPE}.network.stride", 32, f"{RECIPE}.network: network 'small' has strides 8 and 16"),
        (f"{RECIPE}.method", "plane", f"{RECIPE}.method: found 'plane', expected one of plain"),
        (f"{RECIPE}.options", {"bank": 3}, f"{RECIPE}.options: bank: unknown key 'bank'"),
        (f"{RECIPE}.batch", 5, "batch 5 cannot be split evenly"),
        (f"{RECIPE}.split", "trian", "split 'trian' is empty, expected one of test, train, val."),
        (f"{RECIPE}.network.weights", "downloads/a", "network: weights: found 'downloads/a'"),
        ("run.cam", ["plan"], "run.cam: found 'plan', expected one of plain"),
        ("data.toy.prepare.source", "toi", "data.toy.prepare.source: found 'toi', expected one of"),
    ],
)
def test_a_wrong_number(desk, keys, value, said):
    desk.edit(f"{RECIPE}.accumulate", 2)
    desk.edit(keys, value)
    assert said in desk.refused("cam_train", *CAM)


@pytest.mark.parametrize(
    ("stage", "axes", "keys", "allowed"),
    [
        (
            "seg_train",
            SEG,
            "seg.deeplabv2.toy.seg_train.head",
            "deeplabv1, deeplabv2, deeplabv3plus, ocr",
        ),
        ("seg_train", SEG, "seg.deeplabv2.toy.seg_train.loss", "cross_entropy"),
        ("wsis_train", INST, "inst.maskrcnn.toy.wsis_train.head", "maskrcnn"),
    ],
)
def test_an_unknown_part_of_a_network(desk, stage, axes, keys, allowed):
    desk.edit(keys, "lastone")
    said = desk.refused(stage, *axes)
    assert f"params.yaml: {keys}: found 'lastone', expected one of {allowed}" in said


def test_no_yaml_at_all(desk):
    (desk / "params.yaml").write_text("run: [")
    assert "params.yaml: not valid YAML" in desk.refused("prepare", "toy")
    (desk / "params.yaml").unlink()
    assert "params.yaml: not found" in desk.refused("prepare", "toy")


def missing(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def another_format(file: Path) -> None:
    file.write_bytes(b"<html>404</html>")


def another_size(file: Path) -> None:
    with Image.open(file) as picture:
        picture.resize((picture.width + 2, picture.height), 0).save(file)


def label_out_of_range(file: Path) -> None:
    with Image.open(file) as picture:
        ids, palette = np.array(picture), picture.getpalette()
    ids[5, 5] = 77
    spoilt = Image.fromarray(ids, mode="P")
    spoilt.putpalette(palette)
    spoilt.save(file)


def true_colour(file: Path) -> None:
    with Image.open(file) as picture:
        picture.convert("RGB").save(file)


ANY = (missing, truncated, another_format, another_size)


@pytest.mark.parametrize("spoil", ANY)
@pytest.mark.parametrize(
    ("stage", "axes"), [("cam_train", CAM), ("cam_infer", CAM), ("seg_train", SEG)]
)
def test_a_spoilt_photograph(desk, spoil, stage, axes):
    spoil(desk / IMAGE)
    assert ID in desk.refused(stage, *axes)


@pytest.mark.parametrize("spoil", [*ANY, label_out_of_range, true_colour])
@pytest.mark.parametrize(
    ("file", "stage", "axes"),
    [
        (TRUTH, "cam_eval", CAM),
        (TRUTH, "mask_eval", MASK),
        (PSEUDO, "mask_eval", MASK),
        (PSEUDO, "seg_train", SEG),
    ],
)
def test_a_spoilt_mask(desk, spoil, file, stage, axes):
    spoil(desk / file)
    assert ID in desk.refused(stage, *axes)


@pytest.mark.parametrize("spoil", [truncated, another_size, label_out_of_range, true_colour])
def test_spoilt_companions(desk, spoil):
    spoil(desk / f"data/toy/companions/{ID}.png")
    assert ID in desk.refused("cam_eval", *CAM)


@pytest.mark.parametrize("spoil", [missing, truncated, another_format])
def test_spoilt_maps(desk, spoil):
    spoil(desk / MAPS)
    assert ID in desk.refused("cam_eval", *CAM)


def test_maps_of_another_class_list(desk):
    with np.load(desk / MAPS) as stored:
        np.savez(desk / MAPS, keys=stored["keys"] + 100, cam=stored["cam"], size=stored["size"])
    assert ID in desk.refused("cam_eval", *CAM)


def test_no_maps_at_all(desk):
    shutil.rmtree((desk / MAPS).parent)
    assert "cam_infer/cams: missing" in desk.refused("crf_refine", *MASK)


def test_a_spoilt_index(desk):
    index = desk / "data/toy/index.csv"
    rows = index.read_text()
    index.write_text(rows.replace("split", "part"))
    assert "index.csv: not an index" in desk.refused("cam_train", *CAM)
    index.write_text(rows.replace(" val", " ", 1).replace(",val", ","))
    assert "split 'val' is empty" in desk.refused("seg_eval", *SEG)
    index.unlink()
    assert "index.csv: missing" in desk.refused("cam_train", *CAM)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "not valid JSON"),
        ([{"image_id": ID, "category_id": 99, "score": 1}], f"id '{ID}'"),
        ([{"image_id": ID, "category_id": 1, "score": 1, "size": [9, 9]}], f"id '{ID}'"),
    ],
)
def test_spoilt_instances(desk, content, said):
    from pycocotools import mask

    if not isinstance(content, str):
        with Image.open(desk / IMAGE) as picture:
            size = content[0].pop("size", [picture.height, picture.width])
        encoded = mask.encode(np.ones(size, np.uint8, order="F"))
        content[0]["segmentation"] = encoded | {"counts": encoded["counts"].decode()}
        content = json.dumps(content)
    (desk / f"{PLAIN}/irn").mkdir()
    (desk / f"{PLAIN}/irn/instances.json").write_text(content)
    assert said in desk.refused("wsis_train", *INST)


VOC = {"source": "voc", "root": "downloads/voc", "train_masks": "SegmentationClassAug"}


@pytest.fixture
def voc(desk) -> Path:
    """Two pictures and their masks where params.yaml expects VOC."""
    base = desk / "downloads/voc/VOCdevkit/VOC2012"
    desk.edit("data.voc.prepare", VOC)
    masks = base / "SegmentationClassAug"
    for folder in (base / "JPEGImages", masks, base / "ImageSets/Segmentation"):
        folder.mkdir(parents=True)
    (base / "ImageSets/Segmentation/train.txt").write_text(f"toy_000001\n{ID}\n")
    for id in ("toy_000001", ID):
        shutil.copy2(desk / f"data/toy/images/{id}.jpg", base / "JPEGImages")
        shutil.copy2(desk / f"data/toy/masks/{id}.png", masks)
    return base


@pytest.mark.parametrize("spoil", [*ANY[1:], label_out_of_range])
def test_a_spoilt_mask_of_voc(desk, voc, spoil):
    spoil(voc / f"SegmentationClassAug/{ID}.png")
    assert ID in desk.refused("prepare", "voc")


@pytest.mark.parametrize("spoil", [missing, another_format])
def test_a_spoilt_photograph_of_voc(desk, voc, spoil):
    spoil(voc / f"JPEGImages/{ID}.jpg")
    assert ID in desk.refused("prepare", "voc")


def test_no_voc_at_all(desk):
    desk.edit("data.voc.prepare", VOC)
    assert "downloads/voc: VOC 2012: VOCtrainval_11" in desk.refused("prepare", "voc")


def test_a_voc_of_fewer_images_than_expected(desk, voc):
    desk.edit("data.voc.prepare", VOC | {"counts": {"train": 1464, "test": 1456}})
    said = desk.refused("prepare", "voc")
    assert "data.voc.prepare.counts.train: found 2 images, expected 1464" in said


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("spoil", [missing, truncated, another_format])
def test_a_spoilt_network(desk, file, spoil):
    spoil((desk / MODEL).with_name(file))
    assert file in desk.refused("cam_infer", *CAM)


@pytest.mark.parametrize(
    ("stage", "axes", "folder", "change"),
    [
        ("cam_infer", CAM, "cam_train", {"network": {"name": "resnet50", "stride": 16}}),
        ("seg_eval", SEG, "crf/deeplabv2/seg_train", {"head": "deeplabv3plus"}),
        ("submit", SEG, "crf/deeplabv2/seg_train", {"classes": ["background", "cat"]}),
    ],
)
def test_weights_of_another_architecture(desk, stage, axes, folder, change):
    file = desk / f"{PLAIN}/{folder}/model.json"
    described = json.loads(file.read_text())
    described["network"].update(change.pop("network", {}))
    file.write_text(json.dumps(described | change))
    assert "weights of another architecture" in desk.refused(stage, *axes)


def test_a_backbone_other_than_the_cam_network(desk):
    desk.edit("seg.deeplabv2.toy.seg_train.network.name", "mobilenet_v2")
    said = desk.refused("seg_train", *SEG)
    assert "cam_train/model.safetensors: weights of another architecture" in said


def test_a_loss_that_is_no_number_names_its_images(desk):
    for key in ("lr", "head_lr"):
        desk.edit(f"{RECIPE}.{key}", 1e30)
    desk.edit(f"{RECIPE}.steps", 4)
    said = desk.refused("cam_train", *CAM)
    assert "step 2: loss classification=" in said
    assert said.count("toy_") == 4


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """A disk with room for a run.json and for nothing larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("stage", "axes", "file"),
    [
        ("prepare", ("toy",), "data/toy/masks.partial/toy_000000.png"),
        ("cam_train", CAM, MODEL),
        ("cam_infer", CAM, f"{PLAIN}/cam_infer/cams.partial/toy_000000.npz"),
        ("crf_refine", MASK, f"{PLAIN}/crf/seeds.partial/toy_"),
        ("cam_eval", CAM, f"{PLAIN}/cam_eval/curve.csv"),
    ],
)
def test_no_room(desk, stage, axes, file):
    with small_files():
        assert desk.refused(stage, *axes).startswith(f"fbr: File too large writing {file}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_full_disk(desk, name):
    folder = (desk / MODEL).parent
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / f"{name}.partial").symlink_to("/dev/full")
    assert cli.main(["cam_train", *CAM]) == 2
    said = desk.capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fbr: No space left on device writing ")
    assert name in said
    assert not (folder / name).exists()


def test_no_room_for_a_folder(desk, monkeypatch):
    def mkdir(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "No space left on device writing " in desk.refused("prepare", "toy")


def test_a_stage_that_runs_already(desk):
    axes = dict(zip(("data", "seed", "cam"), CAM, strict=True))
    with engines.guarded(Workspace(desk.folder), "cam_train", axes):
        said = desk.refused("cam_train", *CAM)
    assert f"cam_train toy s0 plain runs already (pid {os.getpid()} on " in said


@pytest.mark.parametrize(("stage", "axes"), [("crf_refine", MASK), ("cam_train", CAM)])
def test_a_process_that_refuses_says_one_line(desk, stage, axes):
    """Found in a pool of processes, and in one of threads, which could each say more."""
    truncated(desk / IMAGE)
    done = subprocess.run(
        [sys.executable, "-m", "fbr", stage, *axes],
        cwd=desk.folder,
        env=checkout.environment() | {"PYTHONPATH": str(checkout.ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line[:2].isdigit()]
    assert len(said) == 1
    assert said[0].startswith("fbr: ")
    assert ID in said[0]
