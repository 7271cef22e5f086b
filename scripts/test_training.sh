#!/usr/bin/env bash
# The tests of TRL's trainers, in an environment of their own over the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/overlay.sh
overlay .venv-training scripts/test_training.sh
if [ ! -f "$ready" ]; then
    "$venv/bin/python" -m pip install --quiet datasets
    "$venv/bin/python" -m pip install --quiet --no-deps "trl>=1.16,<2"
    touch "$ready"
fi
versions trl peft transformers torch
"$venv/bin/python" -m pytest tests/trl "$@"
