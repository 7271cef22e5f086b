"""The contract: a list of everything that illava relies on in transformers, and its check.

``accelerate()`` checks it before it modifies a model. The check reads signatures, not versions: a renamed
argument, a missing module or a method with reordered arguments is a :class:`Fault`, which is reported by an
UnsupportedError.
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
