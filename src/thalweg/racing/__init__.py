"""A race: plan, pools, stages, statistics, verdict, results."""
