"""``illava look``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import (
    DEFAULT_KEEP,
    AnswerTokensOption,
    DeviceOption,
    DtypeOption,
    KeepOption,
    MethodOption,
    ModelForOption,
    TrustOption,
    hush,
    one_line_errors,
    parse_keep,
    say_default,
    writing,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..ask import Answer

QUESTION = "What is shown?"
PRESET = "illava-best"


def look(
    shown: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|VIDEO",
            help="An image, a video, a folder of frames, or an image of illava-lab, such as demo/word.png.",
        ),
    ],
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="A question about it, in quotes.")
    ] = QUESTION,
    model: ModelForOption = None,
    keep: KeepOption = None,
    method: MethodOption = None,
    output: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Write to this folder; files are named after the image or video."),
    ] = Path("out/look"),
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    max_new_tokens: AnswerTokensOption = 64,
) -> None:
    """Show which visual tokens each step keeps.

    Writes all steps as a PNG (a WebP animation for videos) and an HTML page to explore in a browser.

    \b
    Examples:
      illava look demo/word.png "What does it read?"
      illava look clip.mp4 "What happens?" --keep 1/6 --output out/clip
    """
    from ..methods.presets import make_method

    with one_line_errors():
        from ..io.files import check_free, replacing
        from ..io.pictures import InputError, open_picture, save_png
        from ..io.texts import check_path
        from ..io.video import is_video, read_video

        share = None if keep is None else parse_keep(keep)
        if not question.strip():
            raise InputError("give a question, or leave it out")
        if method is not None:
            make_method(method, share or 1.0)
        check_path(shown, "a picture, a video or a folder of frames")
        path = Path(shown)
        video = is_video(path)
        frames: tuple[Image.Image, ...] = ()
        if video:
            frames = read_video(path)
        else:
            picture = open_picture(shown)
        # Append to the whole file name, so that no input is overwritten.
        drawn = output / f"{path.resolve().name}.steps.{'webp' if video else 'png'}"
        explored = output / f"{path.resolve().name}.steps.html"
        for target in (output, drawn, explored):
            check_free(target)
        with writing(output):
            output.mkdir(parents=True, exist_ok=True)
        hush()
        from .. import ask as work
        from .. import viz
        from ..plugins import default_model

        named, model = model, default_model([] if video else [shown]) if model is None else model
        loaded, processor = work.load(model, device, dtype, trust_remote_code)
        say_default(named, model)
        chosen, shipped = work.choose(loaded, method, share)
        answer = work.ask(
            loaded,
            processor,
            [] if video else [picture],
            question,
            chosen,
            max_new_tokens,
            compare=True,
            rounds=1,
            video=frames,
            trace=True,
        )
        given = [frames] if video else [work.as_seen(processor, picture)]
        label = chosen.name if shipped else _label(method, keep)
        page = viz.html_page(
            given,
            answer.report,
            question=question,
            answers=[("plain", answer.plain_text or ""), (label, answer.text)],
            facts=[("model", model), *_facts(answer)],
        )
        typer.echo(f"plain:  {answer.plain_text}\nmerged: {answer.text}\n{answer.report}")
        with writing(output), replacing(explored) as partial:
            partial.write_text(page, encoding="utf-8")
        if video:
            viz.save_animation(viz.draw_frames(frames, answer.report), drawn)
        else:
            save_png(viz.draw_steps(given, answer.report), drawn)
        if shipped:
            typer.echo(f"Method: {chosen.name}, from {shipped.file}")
        typer.echo(f"Steps: {drawn}\nOpen in a browser: {explored}")


def _label(method: str | None, keep: str | None) -> str:
    """The method as the page names it."""
    if method is not None and keep is None and method != PRESET:
        return method
    return f"{method or PRESET} at {keep or DEFAULT_KEEP}"


def _facts(answer: Answer) -> list[tuple[str, str]]:
    """Times of one warm run of each model: an indication, not a benchmark."""
    assert answer.plain_timings is not None
    plain, merged = answer.plain_timings[0], answer.timings[0]
    rows = [
        (
            f"{name}: plain, merged (one run each; merged with tracing)",
            f"{getattr(plain, part):.3f} s, {getattr(merged, part):.3f} s",
        )
        for name, part in (
            ("image encoder", "encoder"),
            ("time to first token", "ttft"),
            ("whole answer", "total"),
        )
    ]
    costs = answer.report.plain_cost, answer.report.cost
    rows.append(("KV cache", ", ".join(f"{cost.kv_bytes / 1e6:,.2f} MB" for cost in costs)))
    return rows
