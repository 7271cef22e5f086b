"""The one exception of the library that is not a plain ValueError."""


class UnsupportedError(NotImplementedError):
    """The model, input or option is a valid one that illava does not handle; the message says what it does."""
