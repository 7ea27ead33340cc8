"""`fbr doctor` on a checkout: 0 where all is well, a refusal where params or pipeline are not."""

import errno

import pytest

from fbr import doctor
from fbr.cli import main
from fbr.errors import Refusal
from fbr.workspace import Workspace
from tests import checkout


@pytest.fixture
def folder(tmp_path):
    return checkout.make(tmp_path / "real", toy=False)


def test_a_bare_checkout_is_fine_and_says_what_is_missing(folder, capsys):
    assert doctor.main([], Workspace(folder)) == 0
    shown = capsys.readouterr().out
    assert "tables     0 of published numbers, fine" in shown
    assert "engines    idle" in shown
    assert "leftovers  none" in shown
    assert "toy        not prepared; it can be: snakemake --cores all cam_toy" in shown
    assert "voc        not prepared; prepare will first fetch into downloads/" in shown
    assert "downloads/voc: VOC 2012: VOCtrainval_11-May-2012.tar" in shown
    assert "downloads/coco/instances_train2014.json: COCO 2014: annotations_trainval2014" in shown


def test_what_is_prepared_and_what_was_interrupted_is_told(folder, capsys):
    where = Workspace(folder)
    for path in where.outputs("prepare", {"data": "toy"}).values():
        path.mkdir(parents=True) if not path.suffix else path.write_text("id\na\nb\n")
    axes = {"data": "toy", "seed": "s0", "cam": "plain"}
    (where.beside("cam_train", axes) / "state").mkdir(parents=True)
    cams = where.path("cam_infer", "cams", axes)
    cams.with_name("cams.partial").mkdir(parents=True)
    assert doctor.main([], where) == 0
    shown = capsys.readouterr().out
    assert "toy        prepared, 2 images" in shown
    assert "results/toy/s0/plain/cam_train/state" in shown
    assert "results/toy/s0/plain/cam_infer/cams.partial" in shown


def test_a_password_in_the_address_of_the_server_is_not_shown(folder, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server:5000")
    doctor.main([], Workspace(folder))
    assert "MLflow     http://server:5000" in capsys.readouterr().out


def test_the_command_exits_with_two_where_params_are_wrong(folder, capsys, monkeypatch):
    checkout.edit(folder / "params.yaml", lambda p: p["run"].update(cam=["plian"]))
    monkeypatch.chdir(folder)
    assert main(["doctor"]) == 2
    assert "fbr: params.yaml: run.cam: found 'plian'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda p: p["run"].update(crf=[]),
            "irn_train .*crf/seeds, which nothing under run: makes",
        ),
        (
            lambda p: p["run"].update(amn=["amn"], cam=["plain", "amn"]),
            "amn_train .*plain/amn_seeds/seeds, which nothing under run: makes",
        ),
        (
            lambda p: p["cam"]["plain"].pop("toy"),
            "cam_train needs the block cam.plain.toy.cam_train",
        ),
        (lambda p: p["run"].update(mask=["crf"], irn=[]), "wsis_train .*irn/instances.json"),
    ],
)
def test_a_matrix_that_cannot_be_made_is_refused(folder, change, said):
    checkout.edit(folder / "params.yaml", change)
    with pytest.raises(Refusal, match=said):
        doctor.main([], Workspace(folder))


def test_an_output_that_the_code_does_not_know_is_refused(folder):
    file = folder / "dvc.yaml"
    file.write_text(file.read_text().replace("cam_eval/curve.csv", "cam_eval/curves.csv"))
    with pytest.raises(Refusal, match=r"dvc.yaml: cam_eval: outputs differ .*curves\.csv"):
        doctor.main([], Workspace(folder))


def test_a_missing_torch_is_told(folder, capsys, monkeypatch):
    known = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else known(name)
    )
    assert doctor.main([], Workspace(folder)) == 0
    assert "numbers    unknown without torch" in capsys.readouterr().out


@pytest.mark.parametrize(("file", "where"), [((), ""), (("data",), ": data")])
def test_what_may_not_be_read_is_one_line(folder, capsys, monkeypatch, file, where):
    def refuse(*given):
        raise PermissionError(errno.EACCES, "Permission denied", *file)

    monkeypatch.setattr(doctor, "main", refuse)
    monkeypatch.chdir(folder)
    assert main(["doctor"]) == 2
    said = "give leave to read or to write it or choose another place"
    assert capsys.readouterr().err == f"fbr: Permission denied{where}; {said}\n"
