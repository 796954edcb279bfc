"""How each kind of error becomes an answer. What is not here is an error of the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from seglens.backbones import QuestionError
from seglens.data.image_decoding import ImageError, ImageTooLargeError
from seglens.inference.refinement import CorrectionError
from seglens.serving.http.api_errors import ApiError, fault, internal, of_fields

NOT_FOUND = (
    "there is no such address; see /openapi.json (of OpenAI's API there are /v1/models and /v1/chat/completions: its "
    "clients need a base_url that ends in /v1)"
)
LOG = logging.getLogger("seglens.serving.http")


def of_image(error: ImageError) -> ApiError:
    if isinstance(error, ImageTooLargeError):
        return ApiError(413, "image_too_large", str(error), "image")
    return ApiError(400, "invalid_image", str(error), "image")


def of_question(error: QuestionError) -> ApiError:
    return ApiError(400, "invalid_question", str(error))


def of_correction(error: CorrectionError) -> ApiError:
    return ApiError(400, "invalid_correction", str(error))


def of_http(error: HTTPException) -> ApiError:
    """An error of the framework itself."""
    if isinstance(error, ApiError):
        return error
    messages = {404: NOT_FOUND, 405: "this address does not accept that method"}
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = messages.get(error.status_code, f"{error.detail}; see /openapi.json")
    return ApiError(error.status_code, codes.get(error.status_code, "invalid_request"), message, headers=error.headers)


def of_schema(error: RequestValidationError) -> ApiError:
    return of_fields(error.errors())


def _handler(api_error_of: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Any]:
    async def answer(request: Request, error: Exception) -> Response:
        api_error = api_error_of(error)
        if api_error.status_code == 405:
            api_error.headers = {"Allow": _methods(request)}
        body = fault(api_error, request.state.request_id)
        return Response(body, api_error.status_code, dict(api_error.headers or {}), "application/json")

    return answer


def fault_of(error: Exception, request_id: str) -> bytes:
    """The JSON of an error after the beginning of an answer; an error of the server is logged."""
    kinds = [kind for kind in API_ERRORS if isinstance(error, kind)]
    if not kinds:
        LOG.error("%s failed", request_id, exc_info=error)
    return fault(API_ERRORS[kinds[0]](error) if kinds else internal(request_id), request_id)


def _methods(request: Request) -> str:
    """All methods of an address; the framework knows only those of the function that matched best."""
    known = {method.upper() for method in request.app.openapi()["paths"].get(request.scope["route"].path_format, {})}
    return ", ".join(sorted(known | ({"HEAD"} if "GET" in known else set())))


API_ERRORS: dict[type[Exception], Callable[[Any], ApiError]] = {
    HTTPException: of_http,
    RequestValidationError: of_schema,
    ImageError: of_image,
    QuestionError: of_question,
    CorrectionError: of_correction,
}
HANDLERS = {kind: _handler(api_error_of) for kind, api_error_of in API_ERRORS.items()}
