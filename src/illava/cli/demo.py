"""The command line: ``illava demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import DeviceOption, DtypeOption, TrustOption, hush, one_line_errors


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Models to choose from, the first at once. Default: the shipped ones."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 lets everyone in who can reach this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a page: drop a picture or a video, ask, and see both models answer and what stayed."""
    with one_line_errors():
        from importlib.util import find_spec

        from ..io.pictures import InputError

        if find_spec("gradio") is None:
            raise InputError("the page needs Gradio: pip install 'illava[demo]'")
        hush()
        from ..demo import serve
        from ..demo.server import Server, shipped

        serve(Server(model or shipped(), device, dtype, trust_remote_code), host, port)
