"""Limits of a server, and what every refusal looks like."""

from __future__ import annotations

LIMITS = dict(
    max_tokens=10,
    max_prompt_tokens=400,
    max_pictures=2,
    max_frames=4,
    max_megapixels=0.2,
    max_picture_mb=0.1,
    max_request_mb=0.5,
    min_keep=0.1,
    max_keep=0.5,
)


def refused(response, status, *parts, code=None, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"].endswith("_error")
    assert "\n" not in error["message"]
    for part in parts:
        assert part in error["message"]
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
