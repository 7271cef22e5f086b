"""The demo page, in Gradio.

One question is answered at a time; the others wait in a queue and see their position. Uploads are stored in a
temporary folder: a session's are deleted when it ends, all of them when the server stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..errors import UnsupportedError
from ..io.pictures import InputError
from ..io.video import VIDEOS
from ..methods import Compose, methods, presets
from ..viz import draw_steps
from ..viz.page import data_url
from .server import BUDGETS, DEFAULT_BUDGET, MOST_MEGABYTES, Server, table

LINE = 32
"""The length of the queue."""
SECONDS_KEPT = 1800
"""The age at which uploads are deleted even if their session has not ended."""
INTRODUCTION = (
    "Upload one or more images, or a video, and ask a question. Both answers come from the same model: once "
    "with all visual tokens, once with most of them merged. The shipped models are small; those trained on "
    "drawings are toys that know shapes, colours, digits and short words."
)
QUESTION = "What does it read?"
STEPS = list(BUDGETS)


def build(server: Server) -> gr.Blocks:
    """Build the page of a server."""

    def ask(
        files: list[str] | None, question: str, model: str, method: str, at: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        server.note(request.session_hash, files or [])
        unchanged = (gr.skip(),) * 4
        yield "", "", [], "", "Working ..."
        report, given = None, []
        try:
            budget = STEPS[int(at)]
            for state in server.answer(files, question, model, method, budget):
                merged, plain, report, given = state
                yield plain.text, merged.text, table(merged, plain, report), gr.skip(), "Working ..."
        except (InputError, UnsupportedError) as error:
            yield *unchanged, f"**Error:** {error}"
        except Exception as error:
            # Whatever fails, the server must answer the next visitor.
            yield *unchanged, f"**Internal error:** {type(error).__name__}"
        else:
            # After both answers, so that drawing is not timed.
            sheet = draw_steps(given, report) if report is not None and report.pictures else None
            done = "Done. Times are of one run each; the first run after the server starts includes warm-up."
            yield *unchanged[:3], _inline(sheet), done

    shown = server.example()

    def hold(files: list[str] | None, request: gr.Request) -> None:
        server.note(request.session_hash, files or [])

    def leave(request: gr.Request) -> None:
        server.forget(request.session_hash)

    with gr.Blocks(title="illava", analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as page:
        gr.Markdown(f"# illava\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(
                    label="Images, or a video",
                    file_count="multiple",
                    file_types=["image", *VIDEOS],
                    elem_id="files",
                )
                question = gr.Textbox(
                    label="Question", value=QUESTION if shown is None else shown[1], elem_id="question"
                )
                go = gr.Button("Ask", variant="primary", elem_id="ask")
                model = gr.Dropdown(list(server.names), value=server.names[0], label="Model", elem_id="model")
                names = [*sorted(presets()), *sorted({*methods()} - {Compose.name})]
                method = gr.Dropdown(names, value="illava-best", label="Method", elem_id="method")
                keep = gr.Slider(
                    0,
                    len(STEPS) - 1,
                    value=STEPS.index(DEFAULT_BUDGET),
                    step=1,
                    label="Visual tokens kept, from all to 1/18",
                    elem_id="keep",
                )
                kept = gr.Markdown(f"keeps **{DEFAULT_BUDGET}**", elem_id="kept")
            with gr.Column(scale=2):
                status = gr.Markdown("", elem_id="status")
                with gr.Row():
                    plain = gr.Textbox(label="plain", interactive=False, lines=3, elem_id="plain")
                    merged = gr.Textbox(label="merged", interactive=False, lines=3, elem_id="merged")
                facts = gr.Dataframe(
                    headers=["", "plain", "merged", "plain / merged"], interactive=False, elem_id="facts"
                )
                gr.Markdown(
                    "Step by step: grey tokens are dropped; tokens with an orange dot have absorbed others."
                )
                steps = gr.HTML(elem_id="steps")
        keep.change(lambda at: f"keeps **{STEPS[int(at)]}**", keep, kept, queue=False, show_progress="hidden")
        gr.on(
            [go.click, question.submit],
            ask,
            [files, question, model, method, keep],
            [plain, merged, facts, steps, status],
            concurrency_limit=1,
            concurrency_id="model",
        )
        # Also when it was not uploaded: another session's end must not delete the example.
        files.change(hold, files, queue=False, show_progress="hidden")
        if shown is not None:
            # A new copy for each session, whose end deletes it.
            page.load(
                lambda: [str(shown[0])], None, files, queue=False, show_progress="hidden", api_name="example"
            )
        page.unload(leave)
    return page


def _inline(picture: Image.Image | None) -> str:
    """An image embedded in the page; a file on the server would outlive the session."""
    if picture is None:
        return ""
    attributes = 'alt="The image with the tokens kept after each step" style="width:100%"'
    return f'<img {attributes} src="{data_url(picture)}">'


def launch(page: gr.Blocks, host: str, port: int, files: Sequence[Path] = ()) -> str:
    """Start serving the page and return its address. ``files`` are those outside of uploads that it shows.

    Raises OSError if the port is in use.
    """
    page.queue(max_size=LINE, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        allowed_paths=[str(file) for file in files],
        max_file_size=f"{MOST_MEGABYTES}mb",
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return str(page.local_url)
