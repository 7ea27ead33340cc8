"""Print as JSON every job that Snakemake sees for the targets on the command line; runs nothing."""

import json
import sys
from pathlib import Path

from snakemake.api import SnakemakeApi
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings


def label(job):
    return f"{job.rule.name}@{'-'.join(job.wildcards)}"


with SnakemakeApi(OutputSettings(quiet={"all"})) as api:
    opened = api.workflow(ResourceSettings(cores=64), snakefile=Path("Snakefile"))
    opened.dag(DAGSettings(targets=set(sys.argv[1:]), forceall=True))
    workflow = opened._workflow
    workflow._prepare_dag(forceall=True, ignore_incomplete=True, lock_warn_only=True)
    workflow._build_dag()
    jobs = [
        {
            "name": label(job),
            "command": job.shellcmd,
            "params": {key: value for key, value in job.params.items() if key != "cmd"},
            "after": [label(other) for other in workflow.dag.dependencies[job]],
            "resources": [
                job.threads,
                job.resources.gpu,
                job.resources.mem_mb,
                job.resources.runtime,
            ],
        }
        for job in workflow.dag.jobs
        if job.wildcards
    ]
    print(json.dumps(jobs))
