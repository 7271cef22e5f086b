"""lmms-eval finds the models by an entry point, and imports them only when they are used."""

from __future__ import annotations

import ast
import re
import sys
import types
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_entry_point_names_classes_that_exist(monkeypatch):
    @dataclass
    class ModelManifest:
        """As lmms-eval 0.7 has it."""

        model_id: str
        simple_class_path: str | None = None
        chat_class_path: str | None = None

    # lmms-eval itself is not part of this environment.
    for name in ("lmms_eval", "lmms_eval.models", "lmms_eval.models.registry_v2"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = r'^\[project\.entry-points\."lmms_eval\.models"\]\nillava = "([\w.]+):(\w+)"$'
    ((module, function),) = re.findall(group, project, re.MULTILINE)
    manifest = getattr(import_module(module), function)()
    assert manifest.model_id == "illava"
    for path in (manifest.chat_class_path, manifest.simple_class_path):
        module, _, name = path.rpartition(".")
        source = Path(find_spec(module).origin).read_text(encoding="utf-8")
        assert name in [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        assert module not in sys.modules
