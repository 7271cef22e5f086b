"""The one exception of the library that is not a plain ValueError."""


class UnsupportedError(NotImplementedError):
    """A valid model, input or option that illava does not handle; the message says what it does handle."""
