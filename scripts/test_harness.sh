#!/usr/bin/env bash
# The tests of the models for lmms-eval and lm-eval, in an environment of their own over the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/overlay.sh
overlay .venv-harness scripts/test_harness.sh
harnesses=(lmms-eval==0.7.3 lm-eval==0.4.13)
# What the two import for local tasks and clients of servers. lmms-eval asks for many more, among them releases of
# packages that the main environment has newer; and it does not work with filelock 4.
needed=(datasets evaluate "filelock<4" loguru more_itertools pytablewriter python-dotenv rouge_score sacrebleu
    sqlitedict tenacity word2number)
if [ ! -f "$ready" ]; then
    "$venv/bin/python" -m pip install --quiet "${needed[@]}"
    # With the entry points of this checkout, whichever the main environment was made from.
    "$venv/bin/python" -m pip install --quiet --no-deps -e .
    # Last, since pip complains of what a package lacks whenever it installs another one.
    "$venv/bin/python" -m pip install --quiet --no-deps "${harnesses[@]}"
    touch "$ready"
fi
versions lmms-eval lm-eval transformers torch
"$venv/bin/python" -m pytest tests/harness "$@"
