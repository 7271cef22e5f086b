"""The demo page, which shows the answers of the plain and the merged model side by side.

``illava demo`` serves it. It needs Gradio: ``pip install 'illava[demo]'``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Server


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def serve(server: Server, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Load the first model and serve the page until Ctrl-C or SIGTERM; then delete all uploads.

    Raises InputError if the port is in use.
    """
    from ..io.pictures import InputError

    folder = tempfile.mkdtemp(prefix="illava-demo-")
    # Gradio reads this variable when it is imported.
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    page, handler = None, None
    if threading.current_thread() is threading.main_thread():
        # Service managers send SIGTERM; uploads must be deleted then, too.
        handler = signal.signal(signal.SIGTERM, _stop)
    try:
        from .page import build, launch

        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from error
        server.model(server.names[0])
        page = build(server)
        try:
            shown = server.example()
            address = launch(page, host, port, [] if shown is None else [shown[0]])
        except OSError as error:
            raise InputError(f"--port {port}: {error}") from error
        print(f"Serving {address}; press Ctrl-C to stop.", flush=True)
        page.block_thread()
    finally:
        if page is not None:
            page.close()
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
