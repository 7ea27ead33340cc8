"""What the two engines promise, on stages that are one-line shell commands."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fbr import engines
from fbr.errors import Refusal
from fbr.workspace import Workspace
from tests import checkout
from tests.checkout import Started, edit, engine, trace

AXES = {"data": "toy", "seed": "s0", "cam": "plain"}
PLAIN = "results/toy/s0/plain"
CAM_EVAL = f"{PLAIN}/cam_eval/metrics.json"


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    done = engine(folder, "snakemake", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def planned(folder: Path, *targets: str) -> set[str]:
    """Stages that Snakemake would run, were all files too large to be compared by content."""
    options = ["-n", "--quiet", "progress", "--max-checksum-file-size", "0", "--"]
    shown = snakemake(folder, *options, *targets).stdout.splitlines()
    names = {
        line.split()[1].rstrip(":") for line in shown if line.startswith(("rule ", "localrule "))
    }
    return names - {"all"}


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line of a refusal."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("fbr: ")]
    assert len(lines) == 1
    assert lines == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr
    return lines[0]


def dvc_is_clean(folder: Path) -> bool:
    return engine(folder, "dvc", "status", "-q").returncode == 0


def test_sync_after_snakemake_leaves_both_content(finished):
    assert dvc_is_clean(finished)
    assert planned(finished, "all") == set()
    assert "18 recorded that Snakemake ran" in (finished / "synced").read_text()


def test_sync_after_dvc_leaves_both_content(fresh):
    index = "data/toy/index.csv"
    assert engine(fresh, "dvc", "repro", "prepare@toy").returncode == 0
    synced = engine(fresh, "fbr", "sync")
    assert "1 recorded that DVC ran" in synced.stdout, synced.stderr
    assert planned(fresh, index) == set()
    # A record, and not only younger files: an edit is seen, and sync does not talk it away.
    edit(fresh / "params.yaml", lambda p: p["data"]["toy"]["prepare"].update(seed=1))
    assert planned(fresh, index) == {"prepare"}
    synced = engine(fresh, "fbr", "sync")
    assert "out of date for both, run an engine: prepare@toy" in synced.stdout
    assert planned(fresh, index) == {"prepare"}


def test_an_edit_elsewhere_reruns_nothing(finished):
    def change(params):
        params["cam"]["plain"]["voc"]["cam_train"]["lr"] = 0.05
        params["data"]["coco"]["report"]["images"] = 3
        params["seg"]["deeplabv3plus"]["toy"]["seg_train"]["lr"] = 0.05
        params["machine"]["checkpoint_minutes"] = 1.0

    edit(finished / "params.yaml", change)
    assert planned(finished, "all") == set()
    assert dvc_is_clean(finished)


def test_an_edit_reruns_what_depends_on_it(finished):
    seg = {"seg_train", "seg_eval", "submit", "report"}
    edit(
        finished / "params.yaml", lambda p: p["seg"]["deeplabv2"]["toy"]["seg_train"].update(lr=0.1)
    )
    assert planned(finished, "all") == seg
    assert engine(finished, "dvc", "repro").returncode == 0
    ran = trace(finished)
    assert {line.split()[0] for line in ran} == seg
    assert len(ran) == 7


@pytest.mark.parametrize(("resources", "together"), [([], 1), (["--resources", "gpu=2"], 2)])
def test_one_gpu_job_at_a_time_unless_told_otherwise(fresh, resources, together):
    seeds = ["s0", "s1", "s2"]
    models = [f"results/toy/{seed}/plain/cam_train/model.json" for seed in seeds]
    snakemake(fresh, "--cores", "64", *resources, "--", *models)
    running = most = 0
    for line in (fresh / "trace").read_text().splitlines():
        if "cam_train" in line:
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
    assert most == together


def test_a_failing_stage_shows_the_end_of_its_log(fresh):
    refusal = "fbr: data/toy/images/a.jpg: not an image"
    edit(
        fresh / "dvc.yaml",
        lambda d: d["stages"]["prepare"].update(
            cmd=f"sh -c 'echo {refusal}; exit 2' ${{item.data}}"
        ),
    )
    done = engine(fresh, "snakemake", "--cores", "1", "data/toy/index.csv")
    assert done.returncode == 1
    assert refusal in done.stderr.splitlines()
    assert "exited with non-zero" in done.stderr
    assert (fresh / "logs/toy/prepare.log").read_text() == f"{refusal}\n"


def test_a_named_target_ends_with_the_table_on_the_terminal(fresh):
    report = "sh -c 'echo mIoU of $FBR_ENGINE for ${item.data}'"
    edit(fresh / "dvc.yaml", lambda d: d["stages"]["report"].update(cmd=report))
    assert "mIoU of snakemake for toy" in snakemake(fresh, "--cores", "8", "cam_toy").stdout


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/toy/s0/plan/cam_train/model.json", "Did you mean 'plain'?"),
        ("seg_tyo", "Did you mean 'seg_toy'?"),
        ("wsis_coco", "needs the block inst.maskrcnn.coco"),
    ],
)
def test_an_impossible_target_is_refused(fresh, target, said):
    edit(fresh / "params.yaml", lambda p: p["inst"]["maskrcnn"].pop("coco"))
    assert said in refused(engine(fresh, "snakemake", "-n", target))


def test_a_wrong_number_is_refused_before_anything_runs(fresh):
    edit(fresh / "params.yaml", lambda p: p["cam"]["plain"]["toy"]["cam_train"].update(lr="fast"))
    done = engine(fresh, "snakemake", "--cores", "1", "cam_toy")
    assert "cam.plain.toy.cam_train.lr: found 'fast'" in refused(done)
    assert not (fresh / "data").exists()


def test_killed_snakemake_shuts_dvc_out_while_it_lives_and_continues_after(fresh):
    with Started(fresh, "cam_infer", "snakemake", "--cores", "2", CAM_EVAL):
        before = sorted((fresh / "data").rglob("*"))
        done = engine(fresh, "dvc", "repro", "prepare@toy")
        assert done.returncode != 0
        assert "snakemake; wait for it, or use another checkout" in done.stderr
        assert sorted((fresh / "data").rglob("*")) == before
        assert planned(fresh, CAM_EVAL) == {"cam_infer", "cam_eval"}
    assert list((fresh / ".snakemake/locks").iterdir())
    trace(fresh)
    snakemake(fresh, "--cores", "2", CAM_EVAL)
    assert trace(fresh) == ["cam_infer toy s0 plain", "cam_eval toy s0 plain"]
    kept = fresh / PLAIN / "cam_infer/cam_infer.partial"
    assert kept.read_text() == "attempt\n" * 2


def test_what_a_killed_job_had_finished_writing_is_made_again(fresh):
    with Started(fresh, "cam_infer", "snakemake", "--cores", "2", CAM_EVAL):
        maps = fresh / PLAIN / "cam_infer/cams"
        maps.mkdir(parents=True, exist_ok=True)  # of a stage that has begun and come no further
        (maps / "file").write_text("half")
    assert planned(fresh, CAM_EVAL) == {"cam_infer", "cam_eval"}


def test_killed_dvc_shuts_snakemake_out_while_it_lives_and_continues_after(fresh):
    instance = f"cam_infer@{'-'.join(AXES.values())}"
    with Started(fresh, "cam_infer", "dvc", "repro", instance) as dvc:
        done = engine(fresh, "snakemake", "--cores", "1", CAM_EVAL)
        assert f"DVC runs here (pid {dvc.process.pid})" in refused(done)
        assert f"pid {dvc.process.pid}" in refused(engine(fresh, "fbr", "sync"))
        assert planned(fresh, CAM_EVAL)
    trace(fresh)
    assert engine(fresh, "dvc", "repro", instance).returncode == 0
    assert trace(fresh) == ["cam_infer toy s0 plain"]
    kept = fresh / PLAIN / "cam_infer/cam_infer.partial"
    assert kept.read_text() == "attempt\n" * 2
    assert engines.dvc(Workspace(fresh)) is None


HOLD = """
import sys
from fbr import engines
from fbr.workspace import Workspace
where = Workspace(sys.argv[1])
if sys.argv[2] == "snakemake":
    engines.claim(where)
else:
    lock = engines.guarded(where, sys.argv[2], {"data": "toy"})
    lock.__enter__()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a lock until it is told to end."""
    started = []

    def hold(what: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path), what]
        process = subprocess.Popen(
            command, cwd=checkout.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_stage_instance_runs_once_at_a_time(holder, tmp_path, monkeypatch):
    where = Workspace(tmp_path)
    process = holder("prepare")
    with pytest.raises(Refusal, match=f"prepare toy runs already \\(pid {process.pid} on "):
        engines.guarded(where, "prepare", {"data": "toy"}).__enter__()
    with engines.guarded(where, "prepare", {"data": "voc"}):
        pass
    monkeypatch.setenv("RANK", "1")
    with engines.guarded(where, "prepare", {"data": "toy"}):
        pass
    monkeypatch.delenv("RANK")
    process.kill()
    process.wait()
    with engines.guarded(where, "prepare", {"data": "toy"}):
        pass


def test_a_report_waits_for_its_turn(holder, tmp_path):
    first = holder("report")
    command = [sys.executable, "-c", HOLD, str(tmp_path), "report"]
    second = subprocess.Popen(command, cwd=checkout.ROOT, stdin=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1.5)
    first.communicate("")
    assert second.wait(timeout=300) == 0


def test_under_dvc_a_stage_is_refused_while_snakemake_lives(holder, tmp_path, monkeypatch):
    where = Workspace(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "prepare@toy")
    process = holder("snakemake")
    with pytest.raises(Refusal, match=f"Snakemake runs here \\(pid {process.pid} on "):
        engines.guarded(where, "prepare", {"data": "toy"}).__enter__()
    process.kill()
    process.wait()
    with engines.guarded(where, "prepare", {"data": "toy"}):
        pass


def test_two_snakemakes_may_run_and_leave_no_lock_behind(holder, tmp_path):
    where = Workspace(tmp_path)
    first, second = holder("snakemake"), holder("snakemake")
    first.kill()
    first.wait()
    assert engines.snakemake(where).startswith(f"pid {second.pid} ")
    second.communicate("")
    assert engines.snakemake(where) is None
    assert [lock.stem for lock in where.locks.iterdir()] == [f"snakemake-{first.pid}"]


def test_a_file_system_without_locks_stops_nothing(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(engines.fcntl, "flock", flock)
    with engines.guarded(Workspace(tmp_path), "prepare", {"data": "toy"}):
        assert engines.owner(tmp_path / ".fbr/prepare-toy.lock") is None


def test_dvc_entries_of_dead_processes_do_not_count(tmp_path):
    where = Workspace(tmp_path)
    where.dvc_locks.parent.mkdir(parents=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid, found in ((gone.pid, None), (os.getpid(), f"pid {os.getpid()}")):
        entry = {"pid": pid, "cmd": "dvc repro"}
        where.dvc_locks.write_text(json.dumps({"write": {"results": entry}}))
        assert engines.dvc(where) == found
    where.dvc_locks.write_text("{")
    assert engines.dvc(where) is None
