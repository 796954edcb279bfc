"""Errors of a request: one exception, one JSON form, and the table of status codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException

from seglens.core.text import shortened
from seglens.serving.http.schema import Fault, FaultAnswer

MEANINGS = {
    400: "The content cannot be used: no image, a damaged one, an unreadable question.",
    401: "The API key is missing or wrong.",
    404: "There is no such open image, or no such address.",
    405: "The address exists, but not for this method.",
    408: "The request took too long to arrive.",
    413: "The request, the image, or the work that it asks for is too large.",
    415: "The content type is not one that the server reads.",
    422: "A field is missing, unknown or of the wrong type.",
    499: "The client disconnected before the answer.",
    500: "An error of the server; the log has it under the request's id.",
    503: "Too busy, or about to stop; try again after the seconds of Retry-After.",
    504: "The answer took too long.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI file."""
    return {status: {"model": FaultAnswer, "description": MEANINGS[status]} for status in statuses}


DOCUMENTED = documented(400, 401, 404, 408, 413, 415, 422, 500, 503, 504)


class ApiError(HTTPException):
    """Why a request is not answered, in one line. FastAPI turns this type into an answer wherever it is raised."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(status, message, dict(headers or {}))
        self.code, self.message, self.param = code, message, param


def busy(code: str, message: str, seconds: int = 1) -> ApiError:
    return ApiError(503, code, message, headers={"Retry-After": str(seconds)})


def internal(request_id: str) -> ApiError:
    """Of an error of the server; its details stay in the log."""
    return ApiError(
        500, "internal_error", f"an error of the server, not of the request; the log has it as {request_id}"
    )


def fault(api_error: ApiError, request_id: str) -> bytes:
    """The JSON of an error."""
    kind = "server_error" if api_error.status_code >= 500 else "invalid_request_error"
    param = None if api_error.param is None else _sendable(api_error.param)
    message = _sendable(api_error.message)
    error = Fault(message=message, type=kind, param=param, code=api_error.code, request_id=request_id)
    return FaultAnswer(error=error).model_dump_json().encode()


def _sendable(text: str) -> str:
    """JSON may contain half a character (a lone surrogate), which cannot be encoded in an answer."""
    return text.encode("utf-8", "replace").decode()


def of_fields(errors: Sequence[Any]) -> ApiError:
    """What is wrong with a request's fields. Values are not repeated: they may be huge, or secret."""
    text = shortened([f"{_place(error['loc'])}: {error['msg']}" for error in errors], 3)
    message = f"the request does not fit its schema ({text}); see /openapi.json for its form"
    return ApiError(422, "invalid_request", message, _place(errors[0]["loc"]) if errors else None)


def _place(where: Sequence[str | int]) -> str:
    return ".".join(str(step) for step in where if step != "body")[:200] or "body"
