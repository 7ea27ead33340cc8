"""One module per stage of dvc.yaml, each with `run(job)`: the only layer that joins siblings."""
