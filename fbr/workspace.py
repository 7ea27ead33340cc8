"""Every path of the project, named once: stage → output name → pattern over the axes.

A path is its own provenance: each variable segment is the name of a block in params.yaml.
`tests/contract` holds dvc.yaml to this table.
"""

import re
from pathlib import Path

AXES = ("data", "seed", "cam", "mask", "seg", "inst")

DOWNLOADS = "downloads"  # archives of datasets, what they unpack to, and whatever else is fetched
DATA = "data/{data}"
CAM = "results/{data}/{seed}/{cam}"
MASK = f"{CAM}/{{mask}}"
SEG = f"{MASK}/{{seg}}"
INST = f"{CAM}/{{inst}}"
REPORT = "reports/{data}"


def _files(folder: str, *names: str) -> dict[str, str]:
    """Name each file by its stem, so that `model.json` beside `model.safetensors` stays apart."""
    return {re.sub(r"\.(png|csv|safetensors|tar\.gz)$", "", n): f"{folder}/{n}" for n in names}


def _network(folder: str) -> dict[str, str]:
    return _files(folder, "model.safetensors", "model.json", "history.csv")


PATHS: dict[str, dict[str, str]] = {
    "prepare": _files(
        DATA,
        *("images", "masks", "instances", "saliency", "companions"),
        *("index.csv", "classes.json", "found.json"),
    ),
    "cam_train": _network(f"{CAM}/cam_train"),
    "cam_infer": _files(f"{CAM}/cam_infer", "cams"),
    "cam_eval": _files(f"{CAM}/cam_eval", "metrics.json", "curve.csv", "per_class.csv"),
    "crf_refine": _files(MASK, "masks", "seeds"),
    "irn_train": _network(f"{MASK}/irn_train"),
    "irn_infer": _files(MASK, "masks", "instances.json"),
    "psa_train": _network(f"{MASK}/psa_train"),
    "psa_infer": _files(MASK, "masks"),
    "superpixel_refine": _files(MASK, "masks"),
    "cam_cut": _files(MASK, "masks"),
    "mask_eval": _files(f"{MASK}/mask_eval", "metrics.json", "per_class.csv"),
    "seg_train": _network(f"{SEG}/seg_train"),
    "seg_eval": _files(f"{SEG}/seg_eval", "pred", "metrics.json", "per_class.csv", "confusion.csv"),
    "submit": _files(f"{SEG}/submit", "submission.tar.gz"),
    "wsis_train": _network(f"{INST}/wsis_train"),
    "wsis_eval": _files(f"{INST}/wsis_eval", "detections.json", "metrics.json"),
    # Under another name, so that what comes behind a CAM need not know which way it was made.
    "amn_train": _network(f"{CAM}/cam_train"),
    "amn_infer": _files(f"{CAM}/cam_infer", "cams"),
    "report": _files(REPORT, "tables.md", "tables.tex", "overlays"),
}


def axes_of(stage: str) -> list[str]:
    """The axes that the paths of a stage are made of, in their order."""
    return [axis for axis in AXES if any(f"{{{axis}}}" in path for path in PATHS[stage].values())]


class Workspace:
    """The paths of one checkout."""

    def __init__(self, root: Path | str = ".") -> None:
        self.root = Path(root)

    def path(self, stage: str, name: str, axes: dict[str, str]) -> Path:
        """Output `name` of `stage` for these axes, e.g. ("cam_train", "model", {...})."""
        return self.root / PATHS[stage][name].format(**axes)

    def outputs(self, stage: str, axes: dict[str, str]) -> dict[str, Path]:
        """Every declared output of one stage instance."""
        return {name: self.path(stage, name, axes) for name in PATHS[stage]}

    def beside(self, stage: str, axes: dict[str, str]) -> Path:
        """Folder for what is not declared: `run.json` and `state/` of one stage instance."""
        if stage == "prepare":
            return self.root / ".fbr" / "prepare" / axes["data"]
        segments = [axes[a] for a in AXES if a in axes]
        top = "reports" if stage == "report" else "results"
        return self.root.joinpath(top, *segments, *([] if stage == "report" else [stage]))

    @property
    def downloads(self) -> Path:
        return self.root / DOWNLOADS

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def pipeline(self) -> Path:
        return self.root / "dvc.yaml"

    @property
    def tables(self) -> Path:
        """Folder of the tables of published numbers."""
        return self.root / "workflow" / "tables"

    @property
    def costs(self) -> Path:
        """What stages have cost where they were measured."""
        return self.root / "workflow" / "costs.yaml"

    @property
    def locks(self) -> Path:
        """Folder of the locks that keep two engines, or two runs of one stage, apart."""
        return self.root / ".fbr"

    @property
    def dvc_locks(self) -> Path:
        return self.root / ".dvc" / "tmp" / "rwlock"

    @property
    def snakemake_locks(self) -> Path:
        return self.root / ".snakemake" / "locks"
