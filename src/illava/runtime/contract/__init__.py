"""Whether the installed transformers still has what illava relies on: a list, and its check.

``accelerate()`` asks before it touches a model. Signatures are read, not versions: a renamed argument,
a lost module or a method with its arguments in another order is a :class:`Fault`, and becomes an
UnsupportedError that names it.
"""

from __future__ import annotations

from ...compat.calls import Call, Fault, refusal
from ...models.lookups import check_lookups
from .check import check_contract, contract_faults, import_refusal, missing_everywhere

__all__ = [
    "Call",
    "Fault",
    "check_contract",
    "check_lookups",
    "contract_faults",
    "import_refusal",
    "missing_everywhere",
    "refusal",
]
