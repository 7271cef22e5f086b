"""The page itself, in Gradio.

One question is worked on at a time, the others wait in line and see their place. Uploads live in a folder of
the server's own: a session's go when it ends, all of them when the server does.
"""

from __future__ import annotations

from collections.abc import Iterator
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
"""Questions that may wait."""
SECONDS_KEPT = 1800
"""After which an upload that no session has let go of is deleted all the same."""
EXPLAINED = (
    "Drop one or several pictures, or a video, and ask. Both answers come from the same model: once with all "
    "visual tokens, once with most of them merged. The shipped models are toys that know shapes, "
    "colours, digits and short words."
)
STEPS = list(BUDGETS)


def build(server: Server) -> gr.Blocks:
    """The page for a server."""

    def ask(
        files: list[str] | None, question: str, model: str, method: str, at: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        server.note(request.session_hash, files or [])
        same = (gr.skip(),) * 4
        yield "", "", [], "", "Working ..."
        report, given = None, []
        try:
            budget = STEPS[int(at)]
            for state in server.answer(files, question, model, method, budget):
                merged, plain, report, given = state
                yield plain.text, merged.text, table(merged, plain, report), gr.skip(), "Working ..."
        except (InputError, UnsupportedError) as error:
            yield *same, f"**That did not work:** {error}"
        except Exception as error:
            # Whatever a file or a model does, the next visitor is served.
            yield *same, f"**That failed:** {type(error).__name__}"
        else:
            # After both answers, outside of what is timed.
            shown = draw_steps(given, report) if report is not None and report.pictures else None
            said = "Done. Times are of one run each, the first after a start not warmed up."
            yield *same[:3], _inline(shown), said

    def hold(files: list[str] | None, request: gr.Request) -> None:
        server.note(request.session_hash, files or [])

    def leave(request: gr.Request) -> None:
        server.forget(request.session_hash)

    with gr.Blocks(title="illava", analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as page:
        gr.Markdown(f"# illava\n{EXPLAINED}")
        with gr.Row():
            with gr.Column(scale=1):
                files = gr.File(
                    label="Pictures, or a video",
                    file_count="multiple",
                    file_types=["image", *VIDEOS],
                    elem_id="files",
                )
                question = gr.Textbox(label="Question", value="What does it read?", elem_id="question")
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
                    headers=["", "plain", "merged", "times less"], interactive=False, elem_id="facts"
                )
                gr.Markdown("Step by step: grey patches were dropped, orange dots absorbed others.")
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
        files.upload(hold, files, queue=False, show_progress="hidden")
        page.unload(leave)
    return page


def _inline(picture: Image.Image | None) -> str:
    """A picture within the page: as a file of the server's it would outlive the visit."""
    if picture is None:
        return ""
    told = 'alt="The picture with what stayed after each step" style="width:100%"'
    return f'<img {told} src="{data_url(picture)}">'


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Start to serve the page; returns its address. Raises OSError for a port that is taken."""
    page.queue(max_size=LINE, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        max_file_size=f"{MOST_MEGABYTES}mb",
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    return str(page.local_url)
