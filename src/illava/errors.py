"""The exceptions and warnings of the library that are not plain ones."""


class UnsupportedError(NotImplementedError):
    """A valid model, input or option that illava does not handle; the message says what it does handle."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what would be right."""


class UntestedVersionWarning(UserWarning):
    """The installed transformers is outside of the range that illava is tested with."""
