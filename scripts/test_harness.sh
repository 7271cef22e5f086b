#!/usr/bin/env bash
# The tests of the models for lmms-eval and lm-eval, in an environment of their own over the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
base=${VENV:-.venv}
venv=.venv-harness
harnesses=(lmms-eval==0.7.3 lm-eval==0.4.13)
# What the two import for local tasks and clients of servers. lmms-eval asks for many more, among them releases of
# packages that the main environment has newer; and it does not work with filelock 4.
needed=(datasets evaluate "filelock<4" loguru more_itertools pytablewriter python-dotenv rouge_score sacrebleu
    sqlitedict tenacity word2number)
ready="$venv/.ready-$(cat pyproject.toml scripts/test_harness.sh | cksum | cut -d' ' -f1)"
if [ ! -f "$ready" ]; then
    rm -rf "$venv"
    "$base/bin/python" -m venv --without-pip "$venv"
    # torch, transformers and the test tools are those of the main environment, editable installs included.
    packages=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$packages')" > "$own/main_environment.pth"
    "$venv/bin/python" -m pip install --quiet "${needed[@]}"
    # With the entry points of this checkout, whichever the main environment was made from.
    "$venv/bin/python" -m pip install --quiet --no-deps -e .
    # Last, since pip complains of what a package lacks whenever it installs another one.
    "$venv/bin/python" -m pip install --quiet --no-deps "${harnesses[@]}"
    touch "$ready"
fi
"$venv/bin/python" - <<'END'
from importlib.metadata import version

for name in ("lmms-eval", "lm-eval", "transformers", "torch"):
    print(name, version(name))
END
"$venv/bin/python" -m pytest tests/harness "$@"
