#!/usr/bin/env bash
# The tests that need Ray, in an environment that adds it to the main one.
set -euo pipefail
cd "$(dirname "$0")/.."
main=${VENV:-.venv}/bin/python
target=.venv-ray
extra=$(sed -n 's/^ray = .*"\(ray\[[^"]*\)"\]$/\1/p' pyproject.toml)
if [ ! -f "$target/.ready" ] || [ pyproject.toml -nt "$target/.ready" ]; then
    "$main" -m venv "$target"
    # What the main environment has need not be installed again. Ray's processes run this Python too.
    "$main" - "$target" <<'END'
import sys
import sysconfig
from pathlib import Path

(there,) = Path(sys.argv[1]).glob("lib/python*/site-packages")
(there / "main.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
END
    "$target/bin/python" -m pip install --quiet "$extra"
    touch "$target/.ready"
fi
"$target/bin/python" -c "import ray; print('ray', ray.__version__)"
"$target/bin/python" -m pytest -m ray tests/ray "$@"
