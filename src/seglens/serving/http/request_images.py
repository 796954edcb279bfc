"""How a request gives its content: as JSON, or an image as a file in a form."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from seglens.serving.http.api_errors import ApiError, of_fields
from seglens.serving.http.schema import ImageRequest

FORM, JSON = "multipart/form-data", "application/json"
FIELD = "file"

# For the OpenAPI file: FastAPI itself describes only one type of body.
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {FIELD: {"type": "string", "format": "binary", "description": "An image file."}},
                    "required": [FIELD],
                    "additionalProperties": False,
                }
            },
            JSON: {"schema": ImageRequest.model_json_schema()},
        },
    }
}


async def only_body(request: Request) -> None:
    """Raises an ApiError (400) for a parameter in the address, which would not be read."""
    for name in request.query_params:
        raise ApiError(
            400,
            "unknown_parameter",
            f"got {name[:60]!r} in the address; send all parameters in the body",
            name[:60],
        )


async def only_json(request: Request) -> None:
    """Raises an ApiError for a body whose type is not JSON (415), and as `only_body`."""
    await only_body(request)
    kind = _kind(request)
    if kind != JSON and not kind.endswith("+json"):
        raise ApiError(
            415,
            "unsupported_media_type",
            f"got the content type {kind[:60]!r}; send {JSON} (with curl: -H 'content-type: {JSON}')",
        )


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_upload(request: Request) -> str | bytes:
    """The data URI, or the bytes of the file. Raises an ApiError for any other body."""
    kind = _kind(request)
    if kind == JSON:
        return _read_json(await request.body())
    if kind == FORM:
        return await _read_form(request)
    raise ApiError(
        415, "unsupported_media_type", f"got the content type {kind[:60]!r}; send {FORM} with a {FIELD!r}, or {JSON}"
    )


def _read_json(body: bytes) -> str:
    try:
        return ImageRequest.model_validate_json(body).image
    except ValidationError as error:
        raise of_fields(error.errors(include_url=False, include_input=False)) from None


async def _read_form(request: Request) -> bytes:
    async with request.form(max_files=1, max_fields=1) as form:
        file = form.get(FIELD)
        if len(form) != 1 or not isinstance(file, UploadFile):
            raise ApiError(422, "invalid_request", f"the form needs one file named {FIELD!r}, and nothing else", FIELD)
        return await file.read()
