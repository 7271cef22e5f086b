"""Errors of the server as HTTP statuses and JSON bodies of the shape that OpenAI's API has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status code.
        message: one line that says what is wrong and what would be right.
        param: the field of the request that is wrong, such as "messages.0.content".
        code: a name that programs can compare, such as "model_not_found".
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the response."""
        error = {"message": self.message, "type": _kind(self.status), "param": self.param, "code": self.code}
        return {"error": error}


def _kind(status: int) -> str:
    """The ``type`` of an error, which follows from its status."""
    special = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}
    return special.get(status, "server_error" if status >= 500 else "invalid_request_error")


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong, whoever sends it (400)."""
    return ApiError(400, message, param=param, code=code)


def too_large(message: str, param: str | None = None) -> ApiError:
    """A body or a picture that exceeds a limit of the server (413)."""
    return ApiError(413, message, param=param, code="too_large")


def failed() -> ApiError:
    """An error of the server, whose details stay in its log (500)."""
    return ApiError(500, "the server failed to answer; its log says why", code="internal_error")
