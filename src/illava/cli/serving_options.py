"""What ``illava serve`` and ``illava batch`` share: limits on prompts, the model's name, and Ray."""

from __future__ import annotations

import os
from typing import Annotated

import typer

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


def check_ray(option: str, count: int | None, address: str | None) -> None:
    """Raise InputError if Ray is needed and not installed, or if an address is given and no ``option``."""
    from ..errors import InputError
    from ..serving.cluster import check_installed

    if count:
        check_installed(option)
    elif address is not None:
        raise InputError(f"--address {address}: give {option} as well, the number of processes")
