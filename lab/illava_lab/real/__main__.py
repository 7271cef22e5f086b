"""``python -m illava_lab.real``."""

from .command import app

if __name__ == "__main__":
    app(prog_name="python -m illava_lab.real")
