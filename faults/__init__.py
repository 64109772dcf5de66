"""Whatever happens to a training: what was tried, how often, what was lost, what was said.

python -m faults --write docs/faults.md --json faults/results.json
"""
