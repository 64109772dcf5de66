"""A race: plan, pools, stages, statistics, verdict, results.

The budget is asked between stages what is still to be done: how many settings the first split tries,
whether there is a second wave, reruns, another split. Each decision is an event before anybody acts on it,
so that a resumed race decides the same.

``seed32(seed, "split", replicate)`` splits the data, ``seed32(seed, "pool", replicate, optimizer)`` draws a
pool, and ``seed32(seed, "run", replicate, "screen")``, ``(..., "rerun", j)`` and ``(..., "confirm", j)``
are the seeds of runs, shared by all optimizers of a replicate.
"""
