"""The only reader of dvc.yaml, for the Snakefile, the command line and the contract tests."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fbr.errors import Refusal, nearest

ITEM = re.compile(r"\$\{item\.(\w+)\}")
FIELD = re.compile(r"\{(\w+)\}")

# What `snakemake <word>_<data>` brings about; a score table wants the scores before it, too.
SCORES = ("cam_eval", "mask_eval", "seg_eval", "wsis_eval")
TARGETS = {
    "cam": SCORES[:1],
    "mask": SCORES[:2],
    "seg": SCORES[:3],
    "wsis": SCORES,
    "submit": ("submit",),
}


@dataclass(frozen=True)
class Stage:
    """One stage; paths, command and parameters are patterns over its axes, as in "{data}"."""

    name: str
    desc: str
    cmd: str
    deps: list[str]
    outs: list[str]
    metrics: list[str]
    params: list[str]
    matrix: dict[str, str]  # axis → list under `run:` that DVC takes its names from
    meta: dict = field(default_factory=dict)

    @property
    def axes(self) -> list[str]:
        return list(self.matrix)

    @property
    def writes(self) -> list[str]:
        return self.outs + self.metrics

    @property
    def label(self) -> str:
        """Pattern such as "{data}/{seed}/cam_train", for logs and benchmarks."""
        return "/".join([f"{{{axis}}}" for axis in self.axes] + [self.name])


def load(path: Path | str = "dvc.yaml") -> list[Stage]:
    """Read every stage of dvc.yaml, in its order."""
    path = Path(path)
    if not path.is_file():
        raise Refusal(f"{path}: not found; run from the folder that holds params.yaml and dvc.yaml")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        return [_stage(name, entry) for name, entry in entries.items()]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refusal(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise Refusal(
            f"{path.name}: expected stages with desc, matrix, cmd and deps each, found {error!r}"
        ) from None


def _stage(name: str, entry: dict) -> Stage:
    return Stage(
        name=name,
        desc=entry["desc"],
        cmd=_wildcards(entry["cmd"]),
        deps=_paths(entry["deps"]),
        outs=_paths(entry.get("outs", [])),
        metrics=_paths(entry.get("metrics", [])),
        params=[_wildcards(p) for p in entry.get("params", [])],
        matrix={a: re.sub(r"\$\{run\.(\w+)\}", r"\1", v) for a, v in entry["matrix"].items()},
        meta=entry.get("meta", {}),
    )


def _wildcards(text: str) -> str:
    """Turn DVC's ${item.x} into {x}."""
    return ITEM.sub(r"{\1}", text)


def _paths(entries: list) -> list[str]:
    """Paths of dvc.yaml entries, each a string or a one-key mapping of path to options."""
    return [_wildcards(e if isinstance(e, str) else next(iter(e))) for e in entries]


def names(stage: Stage, axis: str, config: dict) -> list[str]:
    """Every name an axis can take in a stage: the blocks of the section it reads with that axis.

    This is what keeps two stages apart that write the same pattern, such as the masks of a CRF and
    of IRN: `crf_refine` takes the blocks that have a recipe for it, `irn_infer` those for its own.
    """
    for param in stage.params:
        before, found, after = param.partition(f".{{{axis}}}")
        if found and before in config:
            keys = after.split(".")[1:]
            return [name for name in config[before] if any(_leaves(config[before][name], keys))]
    return list(config[axis])


def _leaves(node: object, keys: list[str]) -> Iterator[bool]:
    """A True for every value found under `keys`, where a key like "{data}" stands for any name."""
    if not keys:
        yield True
        return
    if isinstance(node, dict):
        head, *rest = keys
        for name in node if FIELD.fullmatch(head) else [head]:
            if name in node:
                yield from _leaves(node[name], rest)


def instances(stage: Stage, config: dict, **fixed: str) -> list[dict[str, str]]:
    """The axes of every instance under `run:`, an axis in `fixed` taking that name instead."""
    lists = [[fixed[a]] if a in fixed else config["run"][run] for a, run in stage.matrix.items()]
    return [dict(zip(stage.axes, combo, strict=True)) for combo in itertools.product(*lists)]


def outputs(stage: Stage, config: dict, **fixed: str) -> list[str]:
    """Everything a stage writes over the matrix of `run:`."""
    return [
        path.format(**axes) for axes in instances(stage, config, **fixed) for path in stage.writes
    ]


def inputs(stage: Stage, stages: list[Stage], config: dict, axes: dict[str, str]) -> list[str]:
    """What one instance reads; a folder above others' outputs is all that `run:` puts below it."""
    found = []
    for dep in stage.deps:
        folder = dep.format(**axes) + "/"
        below = [
            path
            for writer in stages
            if any(out.startswith(dep + "/") for out in writer.writes)
            for path in outputs(writer, config, **{a: axes[a] for a in FIELD.findall(dep)})
            if path.startswith(folder)
        ]
        found += below or [dep.format(**axes)]
    return found


def spread(stage: Stage, stages: list[Stage]) -> bool:
    """Whether a stage reads a folder above what others write, so its inputs depend on `run:`."""
    return any(
        out.startswith(dep + "/") for dep in stage.deps for other in stages for out in other.writes
    )


def edges(stages: list[Stage], config: dict) -> set[tuple[str, str]]:
    """Pairs (writer, reader) of stage names."""
    found = set()
    for reader in stages:
        for dep in reader.deps:
            exact = [
                w for w in stages if any(_meet(w, out, reader, dep, config) for out in w.writes)
            ]
            below = [w for w in stages if any(out.startswith(dep + "/") for out in w.writes)]
            found |= {(writer.name, reader.name) for writer in exact or below}
    return found


def _meet(writer: Stage, out: str, reader: Stage, dep: str, config: dict) -> bool:
    """Whether some instance of one stage reads what some instance of the other one writes."""
    axes = _axes(out, dep)
    if axes is None:
        return False
    for axis, said in axes.items():
        wanted = names(reader, axis, config) if FIELD.fullmatch(said) else [said]
        if not set(wanted) & set(names(writer, axis, config)):
            return False
    return True


def asked(stages: list[Stage], config: dict) -> list[Stage]:
    """The stages of which `run:` asks for an instance."""
    return [stage for stage in stages if instances(stage, config)]


def downward(stages: list[Stage], config: dict) -> list[tuple[str, str]]:
    """The edges that a drawing shows: those that lead on in dvc.yaml, so without circles.

    What a second round feeds back into the stages of the first one is not among them.
    """
    order = [stage.name for stage in stages]
    return sorted((a, b) for a, b in edges(stages, config) if order.index(a) < order.index(b))


def upstream(path: str, stages: list[Stage], config: dict) -> list[tuple[Stage, dict[str, str]]]:
    """Every instance that a path comes from, its own last, writers before readers."""
    found: dict[tuple[str, ...], tuple[Stage, dict[str, str]]] = {}

    def visit(path: str) -> None:
        stage, axes = writer(path, stages, config)
        name = (stage.name, *axes.values())
        if name not in found:
            for dep in stage.deps:
                if not dep.endswith(".py"):
                    visit(dep.format(**axes))
            found[name] = stage, axes

    visit(path)
    return list(found.values())


def targets(stages: list[Stage], config: dict) -> dict[str, list[str]]:
    """What each named target of Snakemake needs: `all`, and `seg_voc` and the like."""
    stage = {s.name: s for s in stages}
    found = {"all": [path for s in stages for path in outputs(s, config)]}
    for data in config["data"]:
        for word, names in TARGETS.items():
            found[f"{word}_{data}"] = [
                path.format(**axes)
                for name in names
                for axes in instances(stage[name], config, data=data)
                for path in stage[name].metrics or stage[name].outs
            ]
    return found


def check(paths: list[str], stages: list[Stage], config: dict) -> None:
    """Refuse paths that name what params.yaml does not have, themselves or in what they need."""
    tops = {out.partition("/")[0] for s in stages for out in s.writes}
    todo = [path.rstrip("/") for path in paths]
    seen = set()
    for path in todo:
        if path in seen or path.partition("/")[0] not in tops:
            continue
        seen.add(path)
        stage, axes = writer(path, stages, config)
        _has_recipe(path, stage, axes, config)
        todo += inputs(stage, stages, config, axes)


def writer(path: str, stages: list[Stage], config: dict) -> tuple[Stage, dict[str, str]]:
    """The stage that writes a path, and the names of its axes there."""
    found = [
        (s, axes) for s in stages for out in s.writes if (axes := _axes(out, path)) is not None
    ]
    if not found:
        known = [p for s in stages for p in outputs(s, config)]
        raise Refusal(f"{path}: no stage of dvc.yaml writes this.{nearest(path, known)}")
    for stage, axes in found:
        if all(name in names(stage, axis, config) for axis, name in axes.items()):
            return stage, axes
    stage, axes = found[0]
    for axis, name in axes.items():
        known = {n for s, _ in found for n in names(s, axis, config)}
        if name not in known:
            break
    raise Refusal(
        f"{path}: params.yaml has no {axis} '{name}' for {stage.name}, expected one of "
        f"{', '.join(sorted(known))}.{nearest(name, known)}"
    )


def _has_recipe(path: str, stage: Stage, axes: dict[str, str], config: dict) -> None:
    for param in (p.format(**axes) for p in stage.params):
        block = config
        for key in param.split("."):
            if key not in (block or {}):
                raise Refusal(f"{path}: {stage.name} needs the block {param}, params.yaml has none")
            block = block[key]


def _axes(pattern: str, path: str) -> dict[str, str] | None:
    """The names that a path puts for the axes of a pattern; None where it is another path."""
    written, read = pattern.split("/"), path.split("/")
    if len(written) != len(read):
        return None
    axes = {}
    for a, b in zip(written, read, strict=True):
        if field := FIELD.fullmatch(a):
            axes[field[1]] = b
        elif a != b:
            return None
    return axes
