"""``illava doctor``."""

from __future__ import annotations

import json
import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import JsonOption, TrustOption, hush, one_line_errors

if TYPE_CHECKING:
    from ..doctor.family import Described, Diagnosis
    from ..doctor.machine import Machine

SLOW = 4
"""A dtype is marked slow if the fastest one is more than this many times faster."""


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL_TYPE | PATH",
            help="A family, as `illava info` lists them, or a model's folder or hub id.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every supported family.")] = False,
    as_json: JsonOption = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Check that illava works with this machine and the installed transformers.

    Checks run on tiny models with random weights; nothing is downloaded.

    \b
    Examples:
      illava doctor
      illava doctor path/to/model
      illava doctor --all
    """
    with one_line_errors():
        from ..io.pictures import InputError

        if every and model is not None:
            raise InputError(f"give either {model} or --all")
        hush()
        visit = _Visit(quiet=as_json)
        try:
            from .. import _import

            # As names of illava are, so that what transformers lacks is named.
            family = _import("doctor.family")
        except Exception as error:
            # A new transformers may have moved something that illava imports.
            visit.machine()
            broken = f"illava cannot be imported: {type(error).__name__}: {error}"
            visit.say(f"\n{broken}")
            visit.fault(broken)
        else:
            # An unknown name is a usage error, reported before anything is printed.
            known = model is None or model in family.families()
            described = None if known else _describe(family, str(model), trust_remote_code)
            visit.machine()
            visit.models(family, model, described, every)
        visit.close()


def _describe(family: Any, model: str, trust_remote_code: bool) -> Described:
    """Read the config of a folder or hub id. Raises InputError or UnsupportedError for other names."""
    from ..errors import UnsupportedError
    from ..io.pictures import InputError
    from ..models.unsupported import unsupported

    if "/" not in model and not os.path.isdir(os.path.expanduser(model)):
        known = ", ".join(sorted(family.families()))
        stages = unsupported().get(model)
        if stages is not None:
            raise UnsupportedError(f"{model} is not supported: {stages}; supported families are {known}")
        near = get_close_matches(model.lower().replace("-", "_"), family.families(), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{model!r} is neither a folder nor a supported family{hint}; give a path or one of {known}"
        )
    described: Described = family.describe(model, trust_remote_code)
    return described


class _Visit:
    """Collects results and, unless ``quiet``, prints each as it is found."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.found: dict[str, Any] = {}
        self.faults: list[str] = []
        self.last = "works here"

    def say(self, text: str) -> None:
        if not self.quiet:
            typer.echo(text)

    def fault(self, text: str) -> None:
        self.faults.append(text)

    def machine(self) -> None:
        from ..doctor.machine import look

        tested = None
        try:
            from ..compat import TESTED as tested
            from ..runtime import contract

            lacking = [str(fault) for fault in contract.missing_everywhere()]
        except Exception as error:
            # Whatever goes wrong here, the doctor must still print what is installed.
            lacking = [f"the contract cannot be checked: {type(error).__name__}: {error}"]
        seen = look(tested)
        self.found["machine"] = seen.to_dict()
        self.found["contract"] = {"faults": lacking}
        for line in _machine_lines(seen):
            self.say(line)
        self.say(f"{'contract':14}{'; '.join(lacking) or 'complete'}")
        for fault in lacking:
            self.fault(f"contract: {fault}")

    def models(self, family: Any, model: str | None, described: Described | None, every: bool) -> None:
        self.found["model"], self.found["families"] = None, {}
        if every:
            self._all(family)
        elif described is not None:
            self._described(family, described)
        elif model is not None:
            self._one(family.examine(model))

    def _described(self, family: Any, described: Described) -> None:
        self.found["model"] = described.to_dict()
        tower = f", vision tower {described.vision_tower}"
        self.say(f"\n{described.model}: {described.family}{tower}, attention {described.attention or '-'}")
        if described.fault is not None:
            self.fault(described.fault)
        if described.tiny is not None:
            self._one(family.examine(described.family, described.tiny))

    def _one(self, diagnosis: Diagnosis) -> None:
        self.found["families"][diagnosis.family] = diagnosis.to_dict()
        self.say(f"\nTiny random {diagnosis.tiny}:")
        for check in () if diagnosis.verification is None else diagnosis.verification.checks:
            self.say(f"  {'ok   ' if check.ok else 'FAULT'} {check.name}: {check.detail}")
        self._warned(diagnosis)
        if not diagnosis.ok:
            self.fault(diagnosis.verdict.removeprefix("fault: "))

    def _all(self, family: Any) -> None:
        self.say("")
        names = family.families()
        diagnoses = []
        for name in names:
            diagnoses.append(diagnosis := family.examine(name))
            self.found["families"][name] = diagnosis.to_dict()
            self.say(f"{name:18}{diagnosis.verdict}")
            self._warned(diagnosis)
        works = sum(diagnosis.ok for diagnosis in diagnoses)
        broken = [diagnosis for diagnosis in diagnoses if diagnosis.transformers_fault]
        for diagnosis in diagnoses:
            # If the plain model of no family runs, the installation is at fault, not the families.
            if not diagnosis.ok and (not diagnosis.transformers_fault or len(broken) == len(names)):
                self.fault(f"{diagnosis.family}: {diagnosis.verdict.removeprefix('fault: ')}")
        self.last = f"works here: {works} of {len(names)} families"
        if broken:
            self.last += f"; transformers itself does not run {', '.join(d.family for d in broken)}"

    def _warned(self, diagnosis: Diagnosis) -> None:
        for warning in diagnosis.warnings:
            self.say(f"  {warning}")

    def close(self) -> None:
        """Print the verdict. Exits with 1 where there is a fault."""
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        verdict = f"fault: {self.faults[0]}{more}" if self.faults else self.last
        if self.quiet:
            found = {"ok": not self.faults, "verdict": verdict, "faults": self.faults, **self.found}
            typer.echo(json.dumps(found))
        self.say(f"\n{verdict}")
        if self.faults:
            raise typer.Exit(1)


def _machine_lines(seen: Machine) -> list[str]:
    def line(name: str, text: str) -> str:
        return f"{name:14}{text}"

    versions = dict(seen.versions)
    transformers = versions.pop("transformers")
    if seen.tested is not None:
        where = "in " if seen.inside else "outside "
        transformers += f" ({where}the tested range, {seen.tested[0]} to {seen.tested[1]})"
    missing = [name for name, there in seen.attention.items() if not there]
    best = max(rate or 0 for rate in seen.speed.values())
    rates = [
        f"{name} {'-' if rate is None else f'{rate:.0f}' if rate >= 10 else f'{rate:.1f}'}"
        + ("" if rate is not None and rate >= best / SLOW else " (slow)")
        for name, rate in seen.speed.items()
    ]
    return [
        line("transformers", transformers),
        line("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        *(line("device", f"{device}: {about}") for device, about in seen.devices.items()),
        line("attention", ", ".join(name for name, there in seen.attention.items() if there)),
        *([line("", f"not installed: {', '.join(missing)}")] if missing else []),
        line("GFLOP/s", f"{', '.join(rates)} on {seen.speed_on}"),
        line("kernels", "Triton" if seen.kernels is None else f"PyTorch operations: {seen.kernels}"),
    ]
