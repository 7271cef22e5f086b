"""``python -m illava_lab.benchmarks.gpu``."""

from .command import main

if __name__ == "__main__":
    raise SystemExit(main())
