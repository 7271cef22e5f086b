"""Draw the pictures that ship for ``illava ask demo/...``: ``python lab/scripts/draw_demo.py``.

They are two samples of the tasks' test split, so no shipped model has seen them.
"""

from pathlib import Path

from illava_lab.tasks import load

FOLDER = Path(__file__).parents[1] / "illava_lab" / "demo"
SHOWN = {"number": ("digits", 7), "word": ("words", 6)}

for name, (task, number) in SHOWN.items():
    sample = load(task)[number]
    sample.pictures[0].save(FOLDER / f"{name}.png")
    print(f"demo/{name}.png: {sample.question} {sample.answers[0]}")
