"""An independent check of every row of a finished build with users: `python -m benchmarks.users DIR`.

It reads `data/`, `pool/`, `rejected/examples/`, `manifest.json` and `preference_space.yaml`, and imports nothing of the
code that wrote them. `ledger.PROMISES` says what is checked.
"""
