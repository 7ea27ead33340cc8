"""A study under Snakemake: run, run again, widened, with toy commands; one run of real stages."""

import csv
import json
from pathlib import Path

import yaml

from tests import checkout
from tests.pipeline import tiny

FILE = Path("docs/studies/tiny.yaml")
ROWS = {"plain": {}, "fast": {"set": {"cam_train.lr": 0.01}}}
SCORE = {"miou": 0.4, "miou_oracle": 0.5, "split": "train", "images": 24, "threshold": 0.3}
EVAL = "results/${item.data}/${item.seed}/${item.cam}/cam_eval"


def ask(folder: Path, rows: dict, seeds: list[str]) -> None:
    """Write the study, and its page where there is none."""
    table = {"data": "toy", "seeds": seeds, "base": "plain", "baseline": "fast", "rows": rows}
    asked = {"page": str(FILE.with_suffix(".md")), "tables": {"lr": table}}
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(yaml.safe_dump(asked, sort_keys=False))
    page = folder / FILE.with_suffix(".md")
    if not page.exists():
        page.write_text("# Tiny\n\n<!-- study:lr -->\n<!-- /study -->\n\nwords\n")


def study(folder: Path) -> str:
    done = checkout.engine(folder, "fbr", "study", str(FILE), "--jobs", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def lines(folder: Path) -> list[list[str]]:
    """The cells of the page's table."""
    text = (folder / FILE.with_suffix(".md")).read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in text if line.startswith("| ")]


def score_by_seed(pipeline: dict) -> None:
    """A cam_eval of one shell line: the seed's number is added to mIoU."""
    line = json.dumps(SCORE | {"miou": "@"}).replace('"@"', "0.4$n").replace('"', '\\"')
    pipeline["stages"]["cam_eval"]["cmd"] = (
        f'sh -c \'n=$(echo ${{item.seed}} | tr -d s); mkdir -p {EVAL}; echo "{line}" | tee'
        f" {EVAL}/metrics.json {EVAL}/curve.csv {EVAL}/per_class.csv;"
        " echo end cam_eval ${item.data} ${item.seed} ${item.cam} >> trace'"
    )


def test_it_runs_once_and_then_only_what_is_new(tmp_path):
    folder = checkout.make(tmp_path / "fbr")
    checkout.edit(folder / "dvc.yaml", score_by_seed)
    place = folder / "studies" / "tiny"
    ask(folder, ROWS, ["s1", "s2"])
    assert "4 of 4 runs are finished" in study(folder)
    ran = checkout.trace(place)
    assert len(ran) == 1 + 2 * 2 * 3
    assert {line.split()[2] for line in ran[:7] if " s" in line} == {"s1"}
    assert [row[:3] for row in lines(folder)[2:]] == [
        ["plain", "2", "41.5 ± 0.7"],
        ["fast", "2", "41.5 ± 0.7"],
    ]

    assert study(folder).count("Nothing to be done") == 2
    assert checkout.trace(place) == []

    ask(folder, {"slow": {"set": {"cam_train.lr": 0.001}}} | ROWS, ["s1", "s2"])
    assert "6 of 6 runs are finished" in study(folder)
    ran = checkout.trace(place)
    assert len(ran) == 2 * 3
    assert all(line.split()[3].startswith("plain_lr_0_001_") for line in ran)
    assert [row[0] for row in lines(folder)[2:]] == ["slow", "plain", "fast"]
    assert (folder / FILE.with_suffix(".md")).read_text().endswith("<!-- /study -->\n\nwords\n")

    checkout.edit(
        folder / "params.yaml", lambda p: p["cam"]["plain"]["toy"]["cam_eval"].update(threshold=0.4)
    )
    study(folder)
    assert [line.split()[0] for line in checkout.trace(place)] == ["cam_eval"] * 6


def test_real_stages_bring_their_scores_and_seconds(tmp_path):
    folder = tiny.make(tmp_path / "fbr")
    ask(folder, {"fast": ROWS["fast"]}, ["s0"])
    study(folder)
    with open(folder / "docs/studies/tiny-runs/runs.csv", newline="") as file:
        (run,) = csv.DictReader(file)
    result = folder / "studies/tiny/results/toy/s0" / run["variant"]
    score = json.loads((result / "cam_eval/metrics.json").read_text())
    for key in ("miou", "miou_oracle", "spill_background", "spill_companions"):
        assert float(run[key]) == score[key]
    record = json.loads((result / "cam_train/run.json").read_text())
    assert float(run["seconds"]) == record["seconds"]
    assert json.loads((result / "cam_train/model.json").read_text())["lr"] == 0.01
