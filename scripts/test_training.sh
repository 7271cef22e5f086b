#!/usr/bin/env bash
# The tests of TRL's trainers, in an environment of their own over the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${VENV:-.venv}
venv=.venv-training
ready="$venv/.ready-$(cat pyproject.toml scripts/test_training.sh | cksum | cut -d' ' -f1)"
if [ ! -f "$ready" ]; then
    rm -rf "$venv"
    "$base/bin/python" -m venv --without-pip "$venv"
    # torch, transformers, peft and the test tools are those of the main environment, editable installs included.
    packages=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$packages')" > "$own/main_environment.pth"
    "$venv/bin/python" -m pip install --quiet datasets
    "$venv/bin/python" -m pip install --quiet --no-deps "trl>=1.16,<2"
    touch "$ready"
fi
"$venv/bin/python" - <<'END_OF_VERSIONS'
from importlib.metadata import version

for name in ("trl", "peft", "transformers", "torch"):
    print(name, version(name))
END_OF_VERSIONS
"$venv/bin/python" -m pytest tests/trl "$@"
