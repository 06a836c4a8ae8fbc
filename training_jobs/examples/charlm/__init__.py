"""From a plain script (plain.py, for torchrun) to a job (train.py, job.yaml): docs/writing-a-workload.md."""
