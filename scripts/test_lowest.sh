#!/usr/bin/env bash
# The fast tests on the lowest transformers release that pyproject.toml claims, beside the main environment.
set -euo pipefail
cd "$(dirname "$0")/.."
lowest=$(sed -n 's/.*"transformers>=\([0-9.]*\).*/\1/p' pyproject.toml)
target=.venv-lowest
python=${VENV:-.venv}/bin/python
if [ ! -f "$target/.ready-$lowest" ]; then
    rm -rf "$target"
    # torch and the test tools are shared with the main environment; transformers and what it needs are laid over them.
    "$python" -m pip install --quiet --target "$target" "transformers==$lowest.*"
    touch "$target/.ready-$lowest"
fi
PYTHONPATH="$target" "$python" -c "import transformers; assert transformers.__version__.startswith('$lowest'), transformers.__version__; print('transformers', transformers.__version__)"
PYTHONPATH="$target" "$python" -m pytest -m "not slow and not gpu and not ray" "$@"
