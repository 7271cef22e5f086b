"""``python -m illava`` is the ``illava`` script."""

from .cli import main

if __name__ == "__main__":
    main()
