"""The papers' claims in miniature: `python -m benchmarks.claims [names] [--tier cpu|quick|gpu] [--seeds 0 1 2]`.

One file per claim, with `CLAIM` or `CLAIMS`. Every run of an arm leaves one line in benchmarks/results/claims/<name>.jsonl; the
table and the picture are made from these lines and from nothing else. No run is dropped, and claims that do not show here are
printed as such.
"""
