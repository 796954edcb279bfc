"""How each kind of error becomes an answer. What is not here is an error of ours."""

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

NOWHERE = (
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
    """What the framework itself refuses."""
    if isinstance(error, ApiError):
        return error
    said = {404: NOWHERE, 405: "this address does not take that method"}
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = said.get(error.status_code, f"{error.detail}; see /openapi.json")
    return ApiError(error.status_code, codes.get(error.status_code, "invalid_request"), message, headers=error.headers)


def of_schema(error: RequestValidationError) -> ApiError:
    return of_fields(error.errors())


def _answering(refusal_of: Callable[[Any], ApiError]) -> Callable[[Request, Exception], Any]:
    async def answer(request: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        if refusal.status_code == 405:
            refusal.headers = {"Allow": _methods(request)}
        body = fault(refusal.status_code, refusal.code, refusal.message, request.state.request_id, refusal.param)
        return Response(body, refusal.status_code, dict(refusal.headers or {}), "application/json")

    return answer


def fault_of(error: Exception, request_id: str) -> bytes:
    """The JSON of an error behind the beginning of an answer; what is an error of ours is logged."""
    kinds = [kind for kind in REFUSALS if isinstance(error, kind)]
    if not kinds:
        LOG.error("%s failed", request_id, exc_info=error)
    refusal = REFUSALS[kinds[0]](error) if kinds else internal(request_id)
    return fault(refusal.status_code, refusal.code, refusal.message, request_id, refusal.param)


def _methods(request: Request) -> str:
    """All that an address takes; the framework tells only those of the function that came nearest."""
    known = {method.upper() for method in request.app.openapi()["paths"].get(request.scope["route"].path_format, {})}
    return ", ".join(sorted(known | ({"HEAD"} if "GET" in known else set())))


REFUSALS: dict[type[Exception], Callable[[Any], ApiError]] = {
    HTTPException: of_http,
    RequestValidationError: of_schema,
    ImageError: of_image,
    QuestionError: of_question,
    CorrectionError: of_correction,
}
ANSWERS = {kind: _answering(refusal_of) for kind, refusal_of in REFUSALS.items()}
