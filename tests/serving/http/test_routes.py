"""Images and questions over HTTP."""

from __future__ import annotations

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from http_server import Serve, Served
from seglens.core.schema import Click
from seglens.core.types import Sample
from seglens.data.masks import decode_rle
from seglens.inference.opened_image import OpenedImage
from seglens.inference.segmenter import Segmenter


def test_an_image_is_opened_asked_about_and_forgotten(
    server: Served, png: bytes, scene: Sample, opened: OpenedImage
) -> None:
    answer = server.client.post("/v1/images", files={"file": png})
    assert answer.status_code == 201
    image = answer.json()
    assert (image["width"], image["height"]) == (256, 256)
    assert image["expires_in"] == pytest.approx(600, abs=1)  # of the seconds that it lives, some have gone
    queries = [target.query for target in scene.targets]
    answers = server.client.post("/v1/segment", json={"image": image["id"], "queries": queries}).json()["answers"]
    for answer, right in zip(answers, opened.segment(queries), strict=True):
        assert answer["query"] == right.query
        assert answer["found"] == right.found
        assert (decode_rle(answer["segmentation"]) == right.mask).mean() > 0.999
    assert server.client.delete(f"/v1/images/{image['id']}").status_code == 204
    gone = server.client.get(f"/v1/images/{image['id']}")
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "image_not_found"


def test_an_image_goes_into_the_request_itself(
    server: Served, data_uri: str, scene: Sample, opened: OpenedImage
) -> None:
    query = scene.targets[2].query
    answer = server.client.post("/v1/segment", json={"image": data_uri, "queries": [query], "heat_map": True}).json()
    right = opened.segment(query)
    assert answer["answers"][0]["area"] == pytest.approx(int(right.mask.sum()), rel=0.01)
    assert answer["heat_maps"][0][3] == pytest.approx(right.heat_map[3].tolist(), abs=1e-4)


def test_masks_come_in_other_forms_too(server: Served, data_uri: str, scene: Sample, opened: OpenedImage) -> None:
    queries = [target.query for target in scene.targets]
    answer = server.client.post(
        "/v1/segment", json={"image": data_uri, "queries": queries, "also": ["png", "geojson"]}
    ).json()
    right = opened.segment(queries)
    indices = np.array(Image.open(io.BytesIO(base64.b64decode(answer["png"]))))
    assert ((indices > 0) == np.any([p.mask for p in right], 0)).mean() > 0.999
    assert answer["geojson"]["type"] == "FeatureCollection"
    assert len(answer["geojson"]["features"]) == sum(len(p.things) for p in right)


def test_clicks_correct_a_mask(server: Served, data_uri: str, scene: Sample, opened: OpenedImage) -> None:
    query, click = scene.targets[2].query, {"x": 5, "y": 5, "label": 1}
    answer = server.client.post("/v1/refine", json={"image": data_uri, "query": query, "clicks": [click]}).json()
    right = opened.refine(opened.segment(query, each=False), [Click.model_validate(click)])
    mask = decode_rle(answer["answers"][0]["segmentation"])
    assert (mask == right.mask).mean() > 0.999
    assert mask[5, 5]
    again = {"image": answer["image"], "query": query}  # it stayed open
    for wrong in ({}, {"clicks": [{"x": 300, "y": 0}]}, {"box": {"x0": 5, "y0": 5, "x1": 5, "y1": 9}}):
        refused = server.client.post("/v1/refine", json=again | wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_correction")


def test_several_things_have_masks_of_their_own(server: Served, data_uri: str, opened: OpenedImage) -> None:
    def things(words: str, each: bool | None) -> list[object]:
        body = {"image": data_uri, "queries": [words], "each": each}
        return server.client.post("/v1/segment", json=body).json()["answers"][0]["instances"]

    right = opened.segment("each of the things")
    assert len(things("each of the things", None)) == len(right.instances) > 0
    assert things("each of the things", False) == []
    assert len(things("the largest thing", True)) == len(opened.segment("the largest thing", each=True).instances)


def test_addresses_are_fetched_only_where_that_is_allowed(server: Served, serve: Serve) -> None:
    body = {"image": "https://127.0.0.1/a.png", "queries": ["a cup"]}
    answer = server.client.post("/v1/segment", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
    assert "send the image itself" in answer.json()["error"]["message"]
    allowed = serve(allow_urls=True)
    answer = allowed.client.post("/v1/segment", json=body)
    assert answer.status_code == 400
    assert "does not lead to the public internet" in answer.json()["error"]["message"]
    body["image"] = "http://example.com/a.png"
    assert allowed.client.post("/v1/segment", json=body).status_code == 400


def test_the_memory_of_expired_images_is_freed_without_a_request(serve: Serve, png: bytes) -> None:
    short = serve(image_ttl=0.3)
    held = "seglens_images_bytes 0.0"
    assert short.client.post("/v1/images", files={"file": png}).status_code == 201
    deadline = time.monotonic() + 10
    while held not in short.client.get("/metrics").text:
        assert time.monotonic() < deadline
    assert 'seglens_images_dropped_total{reason="expired"} 1.0' in short.client.get("/metrics").text


def test_an_internal_error_reveals_nothing(
    serve: Serve, png: bytes, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(image: object) -> object:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(segmenter, "open", broken)
    one = serve()
    answer = one.client.post("/v1/images", files={"file": png})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert answer.json()["error"]["request_id"] in caplog.text
    assert "a secret of the inside" in caplog.text
    monkeypatch.undo()
    assert one.client.post("/v1/images", files={"file": png}).status_code == 201  # the thread of the model lives
