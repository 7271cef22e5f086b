# Sourced by the scripts that test with more packages than the main environment has.

# overlay FOLDER FILE...: sets venv, and ready, which exists once the packages are installed. Makes the folder anew, an
# environment over the main one, where pyproject.toml or one of the files has changed: torch, transformers and the test
# tools are those of the main environment, editable installs included.
overlay() {
    venv=$1
    ready="$venv/.ready-$(cat pyproject.toml scripts/overlay.sh "${@:2}" | cksum | cut -d' ' -f1)"
    if [ -f "$ready" ]; then
        return
    fi
    local base=${VENV:-.venv} packages own
    rm -rf "$venv"
    "$base/bin/python" -m venv --without-pip "$venv"
    packages=$("$base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$packages')" > "$own/main_environment.pth"
}

# versions NAME...: prints those of installed distributions.
versions() {
    "$venv/bin/python" -c 'import sys; from importlib.metadata import version as v
for name in sys.argv[1:]: print(name, v(name))' "$@"
}
