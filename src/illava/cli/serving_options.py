"""What ``illava serve`` and ``illava batch`` share: limits on prompts, the model, and installed packages."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..serving.source import Source

ServedNameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="The model's name in requests.",
        show_default="MODEL, or its folder's name",
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature",
        metavar="T",
        min=0,
        max=2,
        help="Where a request names none; 0 is greedy decoding.",
    ),
]
PromptTokensOption = Annotated[
    int,
    typer.Option(
        "--max-prompt-tokens", metavar="N", min=1, help="Tokens of a prompt, with its visual tokens."
    ),
]
PicturesOption = Annotated[
    int, typer.Option("--max-pictures", metavar="N", min=0, help="Pictures in a request.")
]
FramesOption = Annotated[
    int, typer.Option("--max-frames", metavar="N", min=0, help="Video frames in a request.")
]
MegapixelsOption = Annotated[
    float,
    typer.Option("--max-megapixels", metavar="MP", help="Millions of pixels of all pictures of a request."),
]
PictureMbOption = Annotated[
    float, typer.Option("--max-picture-mb", metavar="MB", help="Megabytes of a picture's file.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Use this running Ray cluster: auto, or HOST:PORT.",
        show_default="Ray is started on this machine and ends with the command",
    ),
]


def served_name(model: str) -> str:
    """The name of a model in requests: of a folder its last part, which tells nothing about this machine."""
    folder = os.path.expanduser(model)
    return os.path.basename(os.path.abspath(folder)) if os.path.isdir(folder) else model


def check_packages(names: Sequence[str]) -> None:
    """Raise InputError if one of these packages of ``illava[serve]`` is not installed."""
    from ..errors import InputError

    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise InputError(f"this command needs {', '.join(missing)}: pip install 'illava[serve]'")


def source_of(model: str, device: str, dtype: str, trust_remote_code: bool) -> Source:
    """The model for other processes, at a path that holds there too.

    What is wrong with it is said here, before anything that takes time. Raises InputError and
    UnsupportedError.
    """
    from ..models.families import family_of
    from ..models.loading import absolute, read_config
    from ..serving.source import Source

    family_of(read_config(model, trust_remote_code))
    return Source(absolute(model), device, dtype, trust_remote_code)


def check_ray(option: str, count: int | None, address: str | None) -> None:
    """Raise InputError if Ray is needed and not installed, or if an address is given and no ``option``."""
    from ..errors import InputError
    from ..serving.cluster import check_installed

    if count:
        check_installed(option)
    elif address is not None:
        raise InputError(f"--address {address}: give {option} as well, the number of processes")
