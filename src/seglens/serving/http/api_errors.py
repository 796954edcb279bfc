"""Why a request is not answered: one exception, one JSON shape, and the table of what may be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException

from seglens.core.text import shortened
from seglens.serving.http.schema import Fault, FaultAnswer

MEANINGS = {
    400: "What came cannot be used: no image, a damaged one, an unreadable question.",
    401: "The API key is missing or wrong.",
    404: "There is no such open image, or no such address.",
    405: "The address is there, but not for this method.",
    408: "The request took too long to arrive.",
    413: "The request, the image or one of its sides of the work is too large.",
    415: "The content type is not one of those that are read.",
    422: "A field is missing, unknown or of the wrong type.",
    499: "The client left before it was answered.",
    500: "An error of ours; the log has it under the request's id.",
    503: "Too busy, or about to stop; try again after the seconds of Retry-After.",
    504: "The answer took too long.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI file."""
    return {status: {"model": FaultAnswer, "description": MEANINGS[status]} for status in statuses}


DOCUMENTED = documented(400, 401, 404, 408, 413, 415, 422, 500, 503, 504)


class ApiError(HTTPException):
    """A request that is not answered, told in one line. FastAPI passes this type on from wherever it is raised."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(status, message, dict(headers or {}))
        self.code, self.message, self.param = code, message, param


def busy(code: str, message: str, seconds: int = 1) -> ApiError:
    return ApiError(503, code, message, headers={"Retry-After": str(seconds)})


def internal(request_id: str) -> ApiError:
    """Of what is an error of ours; nothing of it is told."""
    return ApiError(500, "internal_error", f"an error of ours, not of the request; the log has it as {request_id}")


def fault(status: int, code: str, message: str, request_id: str, param: str | None = None) -> bytes:
    """The JSON of a refusal."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    param = None if param is None else _sendable(param)
    said = Fault(message=_sendable(message), type=kind, param=param, code=code, request_id=request_id)
    return FaultAnswer(error=said).model_dump_json().encode()


def _sendable(text: str) -> str:
    """JSON may spell half a character, which no answer can hold."""
    return text.encode("utf-8", "replace").decode()


def of_fields(errors: Sequence[Any]) -> ApiError:
    """What a request's fields have wrong. Values are not repeated: they may be huge, or secret."""
    said = shortened([f"{_place(error['loc'])}: {error['msg']}" for error in errors], 3)
    message = f"the request does not fit its schema ({said}); see /openapi.json for its form"
    return ApiError(422, "invalid_request", message, _place(errors[0]["loc"]) if errors else None)


def _place(where: Sequence[str | int]) -> str:
    return ".".join(str(step) for step in where if step != "body")[:200] or "body"
