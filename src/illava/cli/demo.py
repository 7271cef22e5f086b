"""``illava demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import DeviceOption, DtypeOption, HostOption, TrustOption, hush, one_line_errors


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Offer this model; repeat for several. The first is loaded at start.",
            show_default="the shipped models, the best first",
        ),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="Port to listen on.")] = 7860,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve a web page that compares the plain and the accelerated model.

    Upload images or a video and ask a question. The page shows both answers and which tokens were kept.

    \b
    Examples:
      illava demo
      illava demo --model Qwen/Qwen2-VL-2B-Instruct --device cuda
    """
    with one_line_errors():
        from importlib.util import find_spec

        from ..io.pictures import InputError

        if find_spec("gradio") is None:
            raise InputError("the demo page needs Gradio: pip install 'illava[demo]'")
        hush()
        from ..demo import serve
        from ..demo.server import Server, shipped
        from ..plugins import INSTALL_LAB, LAB

        names = model or shipped()
        if not names:
            raise InputError(f"give --model, or install the models of {LAB}: {INSTALL_LAB}")
        serve(Server(names, device, dtype, trust_remote_code), host, port)
