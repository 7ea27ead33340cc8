"""prepare from the net: official archives of a few images, from servers good and bad."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fbr import cli
from fbr.datasets.prepared import Prepared
from fbr.files import download
from tests import checkout, official
from tests.pipeline.test_bad_input import at_home
from tests.unit.files.server import Server


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, bytes]:
    """The archives of the challenge, of Berkeley and of COCO by file name."""
    base = tmp_path_factory.mktemp("archives")
    for make in (official.voc, official.voc_test, official.sbd, official.coco):
        make(base / make.__name__)
    tars = {"trainval.tar": "voc", "test.tar": "voc_test", "benchmark.tgz": "sbd"}
    zips = {"train.zip": "train2014", "val.zip": "val2014", "annotations.zip": "annotations"}
    return {name: official.tarred(base / folder, base / name) for name, folder in tars.items()} | {
        name: official.zipped(base / "coco", base / name, part) for name, part in zips.items()
    }


@pytest.fixture
def server(archives, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        server.files |= archives
        yield server


@pytest.fixture
def home(tmp_path, server) -> Iterator[Path]:
    """A workspace whose VOC and COCO come from the server."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(checkout.ROOT / name, folder)

    def archive(name: str) -> dict:
        return {"urls": [server.url(name)], "md5": hashlib.md5(server.files[name]).hexdigest()}

    def ours(blocks: dict) -> None:
        voc, coco = (blocks["data"][name]["prepare"] for name in ("voc", "coco"))
        names = {"trainval": "trainval.tar", "sbd": "benchmark.tgz", "test": "test.tar"}
        voc["archives"] = {key: archive(name) for key, name in names.items()}
        voc["counts"] = {"train": 2, "train_aug": 4, "val": 1, "test": 1}
        coco["archives"] = {key: archive(f"{key}.zip") for key in ("train", "val", "annotations")}
        coco["counts"] = {"train": 3, "val": 3}

    checkout.edit(folder / "params.yaml", ours)
    with at_home(folder):
        yield folder


def edit_voc(home: Path, change) -> None:
    checkout.edit(home / "params.yaml", lambda blocks: change(blocks["data"]["voc"]["prepare"]))


def refused(capsys, data: str) -> str:
    """Prepare must say one line, and leave nothing that looks prepared."""
    capsys.readouterr()
    assert cli.main(["prepare", data]) == 2
    (*_, line) = capsys.readouterr().err.splitlines()
    assert line.startswith("fbr: ")
    left = [p.name for p in Path("data", data).glob("*") if not p.name.endswith(".partial")]
    assert left == []
    return line


def splits(data: Prepared) -> dict[str, int]:
    return {split: len(data.split(split)) for split in ("train", "train_aug", "val", "test")}


def test_voc_comes_from_its_archives(home, server):
    server.faults = ["breaks", "closes", "no ranges", "503", "breaks"]
    assert cli.main(["prepare", "voc"]) == 0
    data = Prepared(home / "data" / "voc")
    assert splits(data) == {"train": 2, "train_aug": 4, "val": 1, "test": 1}
    assert {e.id: e.classes for e in data.entries}["2007_000039"] == (5, 20)
    found = json.loads((home / "data/voc/found.json").read_text())
    assert found["found"]["masks of"] == {"SBD": 2, "SegmentationClass": 3}
    assert found["found"]["labels differ from the mask"] == 1
    assert found["splits"]["train_aug"] == 4
    asked = len(server.asked)
    index = (home / "data/voc/index.csv").read_bytes()
    assert cli.main(["prepare", "voc"]) == 0
    assert len(server.asked) == asked  # nothing is fetched twice
    for file in (home / "downloads").glob("*.t*"):
        file.unlink()
    assert cli.main(["prepare", "voc"]) == 0  # nor unpacked
    assert len(server.asked) == asked
    assert (home / "data/voc/index.csv").read_bytes() == index


def test_coco_comes_from_its_archives(home):
    assert cli.main(["prepare", "coco"]) == 0
    data = Prepared(home / "data" / "coco")
    assert [len(data.split(split)) for split in ("train", "val")] == [3, 3]
    assert [e.classes for e in data.entries] == [(2,), (2,), ()] * 2
    found = json.loads((home / "data/coco/found.json").read_text())
    assert found["without a label"] == [
        "COCO_train2014_000000000003",
        "COCO_val2014_000000000003",
    ]
    photograph = "COCO_train2014_000000000001.jpg"
    there = home / "downloads/coco/train2014" / photograph
    assert (home / "data/coco/images" / photograph).samefile(there)


@pytest.mark.parametrize("fault", ["wrong", "page", "says less", "403", "closes"])
def test_a_server_without_the_data_is_one_line(home, server, capsys, fault):
    server.always = fault
    said = refused(capsys, "voc")
    assert "trainval.tar: cannot be fetched (" in said
    server.always = None
    assert cli.main(["prepare", "voc"]) == 0


@pytest.mark.parametrize("content", ["page", "cut", "evil"])
def test_a_bad_archive_without_a_checksum_is_one_line(home, server, capsys, tmp_path, content):
    edit_voc(home, lambda voc: [a.pop("md5") for a in voc["archives"].values()])
    whole = server.files["trainval.tar"]
    evil = tmp_path / "evil"
    official.voc(evil)
    if content == "evil":
        import io
        import tarfile

        with tarfile.open(tmp_path / "evil.tar", "w") as file:
            file.add(evil / "VOCdevkit", "VOCdevkit")
            info = tarfile.TarInfo("../../../evil.txt")
            info.size = 4
            file.addfile(info, io.BytesIO(b"evil"))
        server.files["trainval.tar"] = (tmp_path / "evil.tar").read_bytes()
    else:
        server.files["trainval.tar"] = b"<html>" if content == "page" else whole[: len(whole) // 2]
    said = refused(capsys, "voc")
    assert "trainval.tar: " in said
    assert "delete it" in said
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list((home / "downloads").rglob("*.jpg"))
    server.files["trainval.tar"] = whole
    (home / "downloads" / "trainval.tar").unlink()
    assert cli.main(["prepare", "voc"]) == 0


def test_what_a_kill_left_half_unpacked_is_completed(home):
    from fbr.files.archives import half

    assert cli.main(["prepare", "voc"]) == 0
    there = home / "downloads" / "voc"
    unpacked = half(home / "downloads" / "trainval.tar", there)
    unpacked.mkdir()
    lost = there / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg"
    content = lost.read_bytes()
    lost.unlink()
    assert cli.main(["prepare", "voc"]) == 0
    assert lost.read_bytes() == content
    assert not unpacked.exists()


def test_counts_are_verified(home, capsys):
    edit_voc(home, lambda voc: voc["counts"].update(train_aug=10582))
    said = refused(capsys, "voc")
    assert "data.voc.prepare.counts.train_aug: found 4 images, expected 10582" in said
