"""Load and soak tests of ``illava serve``.

    python -m illava_lab.benchmarks.serving measure --model zoo/L --keep 1/3
    python -m illava_lab.benchmarks.serving soak --model zoo/L --keep 1/3 --hours 8
    python -m illava_lab.benchmarks.serving page

Both start the servers that they need. With ``--url NAME=URL`` they use one that runs already, on this machine
or elsewhere, such as one with several replicas; ``--pid NAME=PID`` then says whose memory is watched.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx

from illava.bench.machine import machine

from .. import common
from .measure import Plan, measure
from .page import FOLDER, PAGE, write
from .prompts import Prompts
from .servers import Server
from .soak import SoakPlan, soak
from .targets import Target

QUEUE = ("--max-queue", "64")


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("measure", help="plain and merged in turn")
    soaked = commands.add_parser("soak", help="one server for hours")
    for command, plan in ((measured, Plan()), (soaked, SoakPlan())):
        command.add_argument("--model", default="zoo/L")
        command.add_argument("--keep", default="1/3", help="of the merged server; the plain one has 1")
        command.add_argument("--server", default="", help="further options of the servers, in one word")
        command.add_argument(
            "--threads", type=int, help="torch's threads in a server; default: its own choice"
        )
        command.add_argument("--url", action="append", default=[], metavar="NAME=URL")
        command.add_argument("--pid", action="append", default=[], metavar="NAME=PID")
        command.add_argument("--side", type=int, default=192, help="pixels a side of the drawn pictures")
        command.add_argument("--pictures", type=int, default=1, help="in a request")
        command.add_argument(
            "--files", type=Path, nargs="+", default=[], help="pictures instead of drawn ones"
        )
        command.add_argument("--tokens", type=int, default=16, help="new tokens of an answer at most")
        command.add_argument("--output", type=Path, help="the JSON file")
        for field in fields(plan):
            _add(command, field.name, getattr(plan, field.name))
    commands.add_parser("page", help=f"write {PAGE} from the JSON files in {FOLDER}")
    return made


def _add(command: argparse.ArgumentParser, name: str, value: Any) -> None:
    """The option of a plan's field."""
    several = isinstance(value, tuple)
    first = value[0] if several else value
    kind = str if name == "event" else float if first is None else type(first)
    option = "--" + name.replace("_", "-")
    command.add_argument(option, type=kind, default=value, nargs="+" if several else None)


def _plan(kind: type[Any], options: argparse.Namespace) -> Any:
    given = {field.name: getattr(options, field.name) for field in fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


@contextmanager
def targets(options: argparse.Namespace, keeps: dict[str, str]) -> Iterator[list[Target]]:
    """The servers: those that are named, and otherwise one of its own for each of ``keeps``.

    Raises ValueError for what is named wrongly, and RuntimeError and httpx.HTTPError for servers that do not
    answer.
    """
    named = [_pair("--url", one) for one in options.url]
    if options.command == "soak" and len(named) > 1:
        raise ValueError(f"--url: a soak takes one server, not {len(named)}")
    pids = {name: int(pid) for name, pid in (_pair("--pid", one) for one in options.pid)}
    if named:
        yield [Target(name, url, _served(url), pids.get(name)) for name, url in named]
        return
    with ExitStack() as stack:
        started = []
        for name, keep in keeps.items():
            words = ["--keep", keep, *QUEUE, *options.server.split()]
            server = stack.enter_context(Server(options.model, words, options.threads))
            started.append(Target(name, server.url, server.name, server.pid))
        yield started


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value) or (option == "--pid" and not value.isdecimal()):
        raise ValueError(f"{option} {text}: give {'NAME=PID' if option == '--pid' else 'NAME=URL'}")
    return name, value


def _served(url: str) -> str:
    """The name of the model that a server has."""
    answer = httpx.get(f"{url}/v1/models", trust_env=False, timeout=60).raise_for_status().json()
    return str(answer["data"][0]["id"])


def _prompts(options: argparse.Namespace, model: str) -> Prompts:
    return Prompts(model, options.side, options.pictures, options.files, options.tokens)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, on what."""
    import fastapi
    import uvicorn

    # Of a folder its last part, which tells nothing about this machine.
    model = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
    names = ("keep", "server", "threads", "side", "pictures", "tokens")
    versions = {"fastapi": fastapi.__version__, "uvicorn": uvicorn.__version__, "httpx": httpx.__version__}
    # The threads of this process say nothing about the servers'.
    where = {name: value for name, value in machine().items() if name != "threads"}
    chosen = {name: getattr(options, name) for name in names}
    return {"model": model, **chosen, "machine": {**where, **versions}}


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(parser().parse_args(arguments))
    except (ValueError, RuntimeError, FileNotFoundError, httpx.HTTPError) as error:
        raise SystemExit(str(error)) from error


def run(options: argparse.Namespace) -> None:
    """Run a command. Raises ValueError, RuntimeError, FileNotFoundError and httpx.HTTPError."""
    if options.command == "page":
        write()
        return
    if options.command == "measure":
        with targets(options, {"plain": "1", "merged": options.keep}) as both:
            prompts = {target.name: _prompts(options, target.model) for target in both}
            found = asyncio.run(measure(both, prompts, _plan(Plan, options)))
            result = {**about(options), **found.summary()}
            result["memory"] = {target.name: target.memory for target in both}
    else:
        with targets(options, {"merged": options.keep}) as started:
            (one,) = started
            run = asyncio.run(soak(one, _prompts(options, one.model), _plan(SoakPlan, options)))
            result = {**about(options), **run.summary()}
    output = options.output or FOLDER / f"{options.command}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    common.write(output, result)
    print(json.dumps(result["requests"]))


if __name__ == "__main__":
    main()
