#!/usr/bin/env bash
# The fast tests with the newest published releases of everything, whatever bounds pyproject.toml sets.
# With --install-only nothing is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-newest
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
python=$venv/bin/python
# Brought up to date every time: that is what the target is for.
"$python" scripts/unbounded.py > "$venv/requirements.txt"
"$python" -m pip install --quiet --upgrade --upgrade-strategy eager -r "$venv/requirements.txt"
"$python" -m pip install --quiet --no-deps -e . -e ./lab
"$python" - <<'END'
from importlib.metadata import version

for name in ("transformers", "torch", "gradio", "peft"):
    print(name, version(name))
END
[ "${1:-}" = --install-only ] && exit
"$python" -m pytest -m "not slow and not gpu and not ray" "$@"
