"""The releases of transformers that illava is tested with, and the installed one."""

from __future__ import annotations

import re
import warnings

from ..errors import UntestedVersionWarning

TESTED = ("5.19", "5.24")
"""The oldest and the newest minor release that the tests run with, which ``pyproject.toml`` requires too."""

_warned: set[str] = set()


def installed() -> str:
    """The version of the installed transformers."""
    import transformers

    return str(transformers.__version__)


def tested_range() -> str:
    """The range of tested releases in words."""
    return f"{TESTED[0]} to {TESTED[1]}"


def is_tested(version: str) -> bool:
    """Whether the minor release of a version lies in the tested range."""
    return _minor(TESTED[0]) <= _minor(version) <= _minor(TESTED[1])


def warn_untested() -> None:
    """Warn once per version if the installed transformers is outside the tested range."""
    version = installed()
    if version in _warned or is_tested(version):
        return
    _warned.add(version)
    warnings.warn(
        f"illava is tested with transformers {tested_range()}, not with {version}, which has all that illava "
        "relies on; check results with `illava doctor --all`, or install a tested release",
        UntestedVersionWarning,
        stacklevel=2,
    )


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
