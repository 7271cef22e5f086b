"""What `make test-newest` installs, and that no target ties continuous integration to an old environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.unbounded import unbounded

ROOT = Path(__file__).parents[1]


def test_extras_are_followed_and_bounds_left_out():
    project = {
        "name": "own",
        "dependencies": ["torch>=2.6", "transformers>=5.19,<6", "a.b_c[x,y]~=1 ; python_version > '3'"],
        "optional-dependencies": {
            "dev": ["own[demo,eval]", "peft>=0.17"],
            "demo": ["own[eval]", "gradio>=6,<7"],
            "eval": ["av", "own[demo]"],
            "docs": ["not-this"],
        },
    }
    assert unbounded(project) == ["a.b_c[x,y]", "av", "gradio", "peft", "torch", "transformers"]


def test_the_projects_own_names():
    said = subprocess.run([sys.executable, ROOT / "scripts" / "unbounded.py"], capture_output=True, text=True)
    names = said.stdout.split()
    assert {"torch", "transformers", "gradio", "peft", "pytest", "scikit-learn", "font-lato"} <= set(names)
    assert {"fastapi", "openai"} <= set(names)
    assert not any(name.startswith("illava") for name in names)
    assert not set("<>=~! ") & set("".join(names))


def test_another_environment_can_be_named():
    """As .ci/run does: nothing of an environment that is there already is used."""
    command = ["make", "--dry-run", "VENV=elsewhere", "test", "style"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m venv elsewhere\n" in said
    assert "elsewhere/bin/python -m pytest" in said
    assert ".venv" not in said
