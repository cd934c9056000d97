"""What `scripts/reliability.py` runs: each module is one check, docs/reliability.md says what came out."""
