"""Proof by killing: everything of a loaded service is killed in turn, and what was lost is counted.

`make chaos` prints the table. The parts: `serve` is the service as a process of its own, `world` starts
and restarts it with its database, `processes` ends processes, `workload` submits jobs, `timeline` writes down what
happens to them, `victims` finds who holds a job, `rounds` and `posts` do the killing in a `scene`, `verdict` judges,
`report` prints.
"""
