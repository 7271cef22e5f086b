"""Draw the figures of docs/how-it-works.md from the shipped zoo/L: ``python lab/scripts/docs_figures.py``."""

from pathlib import Path

from PIL import Image

from illava import viz
from illava.ask import ask, load
from illava.io.pictures import open_picture, save_png
from illava.methods import Illava

FOLDER = Path(__file__).parents[2] / "docs" / "figures"
PICTURE, QUESTION, KEEP = "demo/number.png", "What colour is the heart?", 1 / 9
WIDTH = 1152
"""Pixels of the sheet of steps, which is drawn larger."""


def main() -> None:
    """Ask once, merged, with a trace, and draw what came of it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = open_picture(PICTURE)
    answer = ask(*load("zoo/L"), [picture], QUESTION, Illava.best(KEEP), trace=True)
    sheet = viz.draw_steps([picture], answer.report)
    size = (WIDTH, round(sheet.height * WIDTH / sheet.width))
    small = sheet.resize(size, Image.Resampling.LANCZOS).quantize(256, dither=Image.Dither.NONE)
    save_png(small, FOLDER / "steps.png")
    viz.draw_charts(answer.report).savefig(FOLDER / "charts.png", dpi=80, metadata={"Software": None})
    print(f"{QUESTION} {answer.text}\n{answer.report}")


if __name__ == "__main__":
    main()
