# Reads dvc.yaml, the one description of the pipeline: a stage becomes a rule, an axis of its matrix
# a wildcard, its `meta` the resources. Named targets: all, tables, and cam_, mask_, seg_, wsis_ and
# submit_ followed by a dataset, as in `snakemake --cores all seg_toy`.
from functools import partial
from itertools import product
from pathlib import Path

from snakemake.utils import min_version

from fbr import engines, params, pipeline
from fbr.workspace import Workspace

min_version("9.27")

HERE = Workspace()
with engines.refusing():
    BLOCKS = params.read(HERE.params)
    params.check(BLOCKS, params.Params, HERE.params.name)
    STAGES = pipeline.load(HERE.pipeline)

TARGETS = pipeline.targets(STAGES, BLOCKS)
REPORT = next(stage for stage in STAGES if stage.name == "report")


# With `--sdm apptainer`, jobs run in this image: Python with this package, built by whoever wants it.
container: "fbr.sif"


# One GPU, or as many as one training takes, unless `--resources gpu=N` or a profile says otherwise.
PROCESSES = BLOCKS["machine"]["processes"]
workflow.global_resources.setdefault("gpu", PROCESSES)

engines.before_graph(
    workflow,
    HERE,
    lambda targets: pipeline.check(
        [path for target in targets for path in TARGETS.get(target, [target])], STAGES, BLOCKS
    ),
)


onstart:
    with engines.refusing():
        engines.claim(HERE)


rule all:
    input:
        TARGETS["all"],


# Of the results that are there, whatever they are: it asks for none and runs each time.
rule tables:
    log:
        "logs/tables.log",
    localrule: True
    shell:
        "python -m fbr tables 2>&1 | tee {log}"


for word, data in product(pipeline.TARGETS, BLOCKS["data"]):

    rule:
        name:
            f"{word}_{data}"
        input:
            TARGETS[f"{word}_{data}"],
        log:
            f"logs/{word}_{data}.log",
        localrule: True
        params:
            cmd=REPORT.cmd.format(data=data),
        shell:
            "FBR_ENGINE=snakemake {params.cmd} | tee {log}"


for stage in STAGES:

    rule:
        name:
            stage.name
        input:
            (
                partial(pipeline.inputs, stage, STAGES, BLOCKS)
                if pipeline.spread(stage, STAGES)
                else stage.deps
            ),
        output:
            [path if Path(path).suffix else directory(path) for path in stage.writes],
        log:
            f"logs/{stage.label}.log",
        benchmark:
            f"logs/{stage.label}.tsv"
        wildcard_constraints:
            **{axis: "|".join(pipeline.names(stage, axis, BLOCKS)) for axis in stage.axes},
        threads: stage.meta.get("threads", 1)
        resources:
            gpu=stage.meta.get("gpu", 0) * (PROCESSES if stage.name.endswith("_train") else 1),
            mem_mb=1000 * stage.meta.get("mem_gb", 4),
            runtime=stage.meta.get("minutes", 60),
        params:
            # One keyword a block: inside a list, Snakemake would compare a function's address.
            **{
                path.partition(".")[0]: lookup(dpath=path.replace(".", "/"), within=BLOCKS)
                for path in stage.params
            },
            # Here and not in `shell`, which would be the last stage's command in every rule.
            cmd=stage.cmd,
        shell:
            "FBR_ENGINE=snakemake {params.cmd} > {log} 2>&1"
            " || {{ status=$?; tail -n 12 {log} >&2; exit $status; }}"
