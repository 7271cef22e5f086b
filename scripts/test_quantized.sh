#!/usr/bin/env bash
# The tests of quantized checkpoints with the libraries that read them, in an environment of their own over the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/overlay.sh
overlay .venv-quantized scripts/test_quantized.sh
if [ ! -f "$ready" ]; then
    # Without what they depend on, which the main environment has, but for loguru and ninja.
    "$venv/bin/python" -m pip install --quiet --no-deps compressed-tensors loguru ninja optimum-quanto torchao
    touch "$ready"
fi
versions compressed-tensors optimum-quanto torchao transformers torch
"$venv/bin/python" -m pytest tests/test_loading.py tests/inputs/test_quantized.py "$@"
