"""What a target will need, by records that are made up."""

import shutil

import pytest
import yaml

from fbr import costs, params, plan
from fbr.cli import main
from fbr.datasets.prepared import Entry, write_index
from fbr.errors import Refusal
from fbr.files.tables import write_json
from fbr.stages.job import Job
from fbr.workspace import PATHS, Workspace
from tests import checkout

RUN = {"data": "toy", "seed": "s0", "cam": "plain"}
CAM = "results/toy/s0/plain/cam_eval/metrics.json"
FILE = {
    "records": [
        {"stage": "cam_eval", "seconds": 10, "megapixels": 2, "machine": "a desk"},
        {
            "stage": "cam_train",
            "network": "small/8",
            "seconds": 10,
            "megapixels": 100,
            "machine": "a desk",
        },
    ],
    "bytes_a_pixel": {"cam_infer": 0.5},
    "megabytes": {"small": 2},
    "sources": {"voc": {"pixels": 200000, "splits": {"train": 1464, "train_aug": 10582}}},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A checkout with these records and nothing run."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(checkout.ROOT / name, tmp_path)
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "costs.yaml").write_text(yaml.safe_dump(FILE))
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def numbers():
    return params.load(checkout.ROOT / "params.yaml")


@pytest.fixture
def ran(home, numbers):
    """Leave the run.json of a stage."""

    def ran(stage: str, seconds: float | None, machine: str = "Linux, 2 cores", **more) -> None:
        asked = Job(stage, RUN, numbers, home, threads=1).asked
        run = {"stage": stage, **RUN, "asked": asked, "seconds": seconds, "machine": machine}
        write_json(home.beside(stage, RUN) / "run.json", run | more)

    return ran


def items(home, target: str = CAM) -> dict[str, costs.Item]:
    return {item.stage.name: item for item in costs.Bill(home).items([target])}


def test_a_training_works_through_its_crops(home, numbers):
    recipe = numbers.of("cam_train", RUN)
    work = recipe.steps * recipe.batch * recipe.crop**2 / 1e6
    assert costs.Bill(home).work("cam_train", RUN) == work
    assert items(home)["cam_train"].without == pytest.approx(work / 10)


def test_other_stages_work_through_images_scales_and_flips(home, numbers):
    world = numbers.data["toy"].prepare
    seen = world.train * world.world.size**2 / 1e6
    scales = numbers.of("cam_infer", RUN).scales
    bill = costs.Bill(home)
    assert bill.work("cam_eval", RUN) == pytest.approx(seen)
    assert bill.work("cam_infer", RUN) == pytest.approx(2 * seen * sum(s**2 for s in scales))
    assert bill.work("crf_refine", RUN | {"mask": "crf"}) == pytest.approx(seen)
    every = (world.train + world.val + world.test) * world.world.size**2 / 1e6
    assert bill.work("prepare", RUN) == pytest.approx(every)


def test_more_ways_of_testing_count_by_the_looks_that_they_add(home, numbers):
    seg = RUN | {"mask": "crf", "seg": "deeplabv2"}
    world = numbers.data["toy"].prepare
    seen = world.val * world.world.size**2 / 1e6

    def evaluate(**also: dict) -> None:
        recipe = {"scales": [1.0], "flip": True, "crf": None, "also": also}
        checkout.edit(
            home.params, lambda p: p["seg"]["deeplabv2"]["toy"]["seg_eval"].update(recipe)
        )

    evaluate()
    assert costs.Bill(home).work("seg_eval", seg) == pytest.approx(2 * seen)
    evaluate(
        plain={"scales": [1.0], "flip": False, "crf": None},
        half={"scales": [0.5, 1.0], "flip": False, "crf": None},
    )
    assert costs.Bill(home).work("seg_eval", seg) == pytest.approx((2 + 0.25) * seen)
    # A submission is predicted in one of them, over test's 60 images in place of val's 120.
    assert costs.Bill(home).work("submit", seg) == pytest.approx(2 * seen / 2)
    target = "results/toy/s0/plain/crf/deeplabv2/seg_eval/metrics.json"
    assert "seg_eval" in items(home, target)


def test_a_dataset_counts_as_published_until_it_is_prepared(home):
    bill = costs.Bill(home)
    assert bill.work("cam_eval", RUN | {"data": "voc"}) == pytest.approx(0.2 * 1464)
    assert bill.work("cam_eval", RUN | {"data": "coco"}) is None
    entries = [Entry("a", 100, 200, ("train", "train_aug"), (1,)), Entry("b", 100, 100, (), ())]
    write_index(home.root / "data" / "voc", entries, ["background", "cat"])
    assert costs.Bill(home).work("cam_eval", RUN | {"data": "voc"}) == pytest.approx(0.015)


def test_what_is_not_recorded_has_its_limit(home):
    found = items(home)
    assert found["cam_eval"].seconds == pytest.approx(found["cam_eval"].at_most)
    assert found["cam_infer"].seconds is None
    assert found["cam_infer"].at_most == 60 * found["cam_infer"].stage.meta["minutes"]
    # A GPU takes no longer than the recorded CPU.
    assert found["cam_train"].seconds is None
    assert found["cam_train"].at_most == found["cam_train"].without


def test_what_ran_here_goes_before_the_file(home, ran):
    ran("cam_eval", 7.0)
    assert items(home)["cam_eval"].seconds == pytest.approx(7)
    assert items(home)["cam_eval"].on == "Linux, 2 cores"


def test_a_start_up_is_not_taken_for_the_time_of_far_more_work(home, ran, monkeypatch):
    ran("cam_eval", 7.0)
    known = items(home)["cam_eval"].seconds
    monkeypatch.setattr("fbr.costs.MANY", 0)
    assert items(home)["cam_eval"].seconds != known
    ran("cam_eval", 70.0)
    assert items(home)["cam_eval"].seconds == pytest.approx(70)


@pytest.mark.parametrize(
    "more", [{"asked": "other numbers"}, {"seconds": None}, {"cam": "gone"}, {"continued": True}]
)
def test_a_run_of_other_numbers_or_without_an_end_is_no_record(home, ran, more):
    before = items(home)["cam_eval"].seconds
    ran("cam_eval", **{"seconds": 7.0} | more)
    assert items(home)["cam_eval"].seconds == before


def test_a_gpu_is_told_from_a_cpu(home, ran):
    ran("cam_train", 3.0, "Linux, 16 cores, 1 × Fast")
    found = items(home)["cam_train"]
    assert (found.seconds, found.on) == (pytest.approx(3), "Fast")
    assert found.without_on == "a desk"
    assert items(home)["cam_eval"].on == "a desk"


def test_a_stage_without_a_gpu_is_known_from_a_machine_with_one(home, ran):
    ran("cam_eval", 7.0, "Linux, 16 cores, 1 × Fast")
    found = items(home)["cam_eval"]
    assert (found.seconds, found.on) == (pytest.approx(7), "Linux, 16 cores, 1 × Fast")


def test_machines_are_not_mixed_the_last_on_file_counts(home):
    slow, fast = FILE["records"][0] | {"seconds": 99}, FILE["records"][0] | {"machine": "a rack"}
    home.costs.write_text(yaml.safe_dump(FILE | {"records": [slow, fast]}))
    before = items(home)["cam_eval"]
    assert before.on == "a rack"
    home.costs.write_text(yaml.safe_dump(FILE | {"records": [fast]}))
    assert items(home)["cam_eval"].seconds == before.seconds


def test_every_stage_that_applies_a_network_is_known_with_it(home):
    found = costs.Bill(home)
    assert found._network("psa_infer", RUN | {"mask": "psa"}) == "small/8"
    assert found._network("irn_infer", RUN | {"mask": "irn"}) == "small/8"
    assert found._network("crf_refine", RUN | {"mask": "crf"}) is None


def test_amn_is_taken_for_a_training_like_the_cam(home, ran, numbers):
    found = items(home, "results/toy/s0/amn/cam_eval/metrics.json")
    work = costs.Bill(home).work("amn_train", RUN | {"cam": "amn"})
    assert found["amn_train"].without == pytest.approx(work / 10)


def test_disk_counts_maps_and_models(home, numbers):
    found = items(home)
    world = numbers.data["toy"].prepare
    assert found["cam_infer"].bytes == pytest.approx(0.5 * world.train * world.world.size**2)
    assert found["cam_train"].bytes == 2e6
    assert found["cam_eval"].bytes is None


def test_a_named_target_is_its_paths_and_each_run_is_counted_once(home):
    bill = costs.Bill(home)
    named = [(i.stage.name, i.done) for i in bill.items(["cam_toy"])]
    assert named == [(i.stage.name, i.done) for i in bill.items([CAM, CAM])]
    assert [name for name, _ in named] == ["prepare", "cam_train", "cam_infer", "cam_eval"]
    assert len(list(bill.items(["all"]))) > 4


def test_what_is_there_is_not_counted(home):
    for path in home.outputs("cam_eval", RUN).values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    found = list(costs.Bill(home).items([CAM]))
    assert [item.done for item in found] == [False, False, False, True]
    told = plan.told(found)
    assert [line.split()[:3] for line in told if line.startswith(("cam_eval", "together"))] == [
        ["cam_eval", "1", "0"],
        ["together", "4", "3"],
    ]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("seg_vox", "found 'seg_vox', expected a path or one of all, .* mean 'seg_voc'"),
        ("results/toy/s0/plian/cam_eval/metrics.json", "no cam 'plian' .* mean 'plain'"),
    ],
)
def test_a_target_that_is_none_is_refused(home, target, said):
    with pytest.raises(Refusal, match=said):
        items(home, target)


def test_the_command_says_what_is_estimated_and_what_is_not(home, capsys):
    assert main(["plan", "cam_toy"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert head.split()[:3] == ["stage", "runs", "to"]
    assert rows["cam_eval"].endswith("a desk")
    assert rows["cam_infer"].endswith("limit")
    assert "≤ 4.0 h" in rows["cam_infer"]
    assert any("for want of a record: prepare, cam_train, cam_infer." in line for line in lines)


def test_what_ran_here_can_be_put_on_file(home, ran, capsys):
    ran("cam_train", 3.0, "Linux, 16 cores, 1 × Fast")
    assert main(["plan", "--record"]) == 0
    found = params.check(yaml.safe_load(capsys.readouterr().out), costs.Costs, "it").records
    assert [(r.stage, r.network, r.gpu, r.seconds) for r in found] == [
        ("cam_train", "small/8", "Fast", 3.0)
    ]


@pytest.mark.parametrize("words", [[], ["seg_toy", "--record"]])
def test_nothing_and_both_are_refused(home, words):
    with pytest.raises(SystemExit) as caught:
        plan.main(words, home)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (1800, "30 min"),
        (9000, "2.5 h"),
        (36e5, "1,000 h"),
    ],
)
def test_durations(seconds, said):
    assert plan.duration(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(2e6, "2 MB"), (5e9, "5.0 GB")])
def test_sizes(count, said):
    assert plan.size(count) == said


def test_the_records_of_the_project_can_be_read():
    found = params.check(params.read(checkout.ROOT / "workflow" / "costs.yaml"), costs.Costs, "it")
    assert {record.stage for record in found.records} <= set(PATHS)
