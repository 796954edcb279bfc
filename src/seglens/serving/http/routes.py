"""The routes for images and for questions about them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel

from seglens.core.png_files import png_bytes
from seglens.exports import to_geojson, to_png
from seglens.exports.png import MOST
from seglens.inference.compressed_predictions import bare
from seglens.inference.prediction import Prediction
from seglens.serving.http.api_errors import DOCUMENTED, ApiError, documented
from seglens.serving.http.request_images import JSON, UPLOAD, only_body, only_json, read_upload
from seglens.serving.http.schema import ImageAnswer, RefineRequest, SegmentAnswer, SegmentRequest
from seglens.serving.http.service import Service

ImageId = Annotated[str, Path(description="The id from the answer of `/v1/images`.")]


def image_routes(service: Service) -> APIRouter:
    """Open images: an image is computed once, for any number of questions."""
    router = APIRouter(prefix="/v1/images", tags=["images"])
    errors = documented(401, 404, 422, 500, 503)

    @router.post(
        "",
        response_model=ImageAnswer,
        status_code=201,
        responses=DOCUMENTED,
        openapi_extra=UPLOAD,
        summary="Open an image",
        dependencies=[Depends(only_body)],
    )
    async def open_image(request: Request) -> Response:
        return as_json(await service.store(await read_upload(request), request.receive), 201)

    @router.get("/{image_id}", response_model=ImageAnswer, responses=errors, summary="State of an open image")
    async def describe_image(image_id: ImageId) -> Response:
        return as_json(service.images.describe(image_id))

    @router.delete("/{image_id}", status_code=204, responses=errors, summary="Drop an open image")
    async def drop_image(image_id: ImageId) -> None:
        service.images.drop(image_id)

    return router


def question_routes(service: Service) -> APIRouter:
    """Masks for queries in words."""
    router = APIRouter(prefix="/v1", tags=["questions"], dependencies=[Depends(only_json)])

    @router.post("/segment", response_model=SegmentAnswer, responses=DOCUMENTED, summary="Segment what words mean")
    async def segment(body: SegmentRequest, request: Request) -> Response:
        with await service.image(body.image, request.receive) as stored:
            predictions = await service.segment(stored.opened, body.queries, body.each, body.trust, request.receive)
        write = partial(_answer, stored.id, predictions, body.heat_map, tuple(body.also))
        return Response(await service.in_worker(write), media_type=JSON)

    @router.post("/refine", response_model=SegmentAnswer, responses=DOCUMENTED, summary="Correct a mask by clicks")
    async def refine(body: RefineRequest, request: Request) -> Response:
        with await service.image(body.image, request.receive) as stored:
            predictions = [await service.refine(stored.opened, body, request.receive)]
        return Response(await service.in_worker(partial(_answer, stored.id, predictions)), media_type=JSON)

    return router


def heat_maps(predictions: Sequence[Prediction]) -> list[list[list[float]] | None]:
    return [None if p.heat_map is None else p.heat_map.round(5).tolist() for p in bare(predictions)]


def _answer(image: str, predictions: Sequence[Prediction], heat_map: bool = False, also: Collection[str] = ()) -> bytes:
    """The answer as JSON; masks are encoded here, off the event loop."""
    height, width = bare(predictions)[0].image.shape[:2]
    answer = SegmentAnswer(
        image=image,
        width=width,
        height=height,
        answers=[p.answer() for p in predictions],
        heat_maps=heat_maps(predictions) if heat_map else None,
        png=_indexed(predictions) if "png" in also else None,
        geojson=to_geojson(predictions) if "geojson" in also else None,
    )
    return answer.model_dump_json().encode()


def _indexed(predictions: Sequence[Prediction]) -> str:
    if sum(len(p.things) for p in predictions) > MOST:
        raise ApiError(413, "too_many_things", f"one PNG holds at most {MOST} things; ask for geojson instead", "also")
    return b64encode(png_bytes(to_png(predictions))).decode()


def as_json(answer: BaseModel, status: int = 200) -> Response:
    """Encoded once, by pydantic; FastAPI would validate it again and encode it in Python."""
    return Response(answer.model_dump_json(), status, media_type=JSON)
