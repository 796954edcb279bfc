"""For monitoring programs, and for clients that ask which model is served."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from seglens.serving.http.admission import AdmissionControl
from seglens.serving.http.api_errors import busy, documented
from seglens.serving.http.schema import Health, ModelAnswer, ModelsAnswer
from seglens.serving.http.service import Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ModelId = Annotated[str, Path(description="As `/v1/models` lists it.")]
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "In Prometheus' text format."}
}


def health_routes(service: Service, admission: AdmissionControl) -> APIRouter:
    router = APIRouter(tags=["watch"])

    @router.get("/healthz", responses=documented(503), summary="Ready for work?")
    async def health() -> Health:
        if not (admission.open and service.batcher.ready):
            raise busy("not_ready", "the model does not work; ask another server", 5)
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses=METRICS | documented(401, 500, 503),
        summary="Numbers for Prometheus",
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=METRICS_TYPE)

    @router.get("/v1/models", responses=documented(401, 500, 503), summary="The one model that is served")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(data=[ModelAnswer(id=service.settings.model_name)])

    @router.get("/v1/models/{model:path}", responses=documented(401, 404, 500, 503), summary="The model of that name")
    async def model(model: ModelId) -> ModelAnswer:  # with slashes: hub ids have one
        service.check_model(model)
        return ModelAnswer(id=model)

    return router
