"""``python -m illava`` is the ``illava`` script."""

from .cli.app import main

if __name__ == "__main__":
    main()
