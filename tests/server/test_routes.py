"""Images and questions over HTTP."""

from __future__ import annotations

import pytest

from seglens.data.masks import decode_rle
from seglens.segmenter import OpenedImage
from seglens.types import Sample
from serving import Served


def test_an_image_is_opened_asked_about_and_forgotten(
    server: Served, png: bytes, scene: Sample, opened: OpenedImage
) -> None:
    said = server.client.post("/v1/images", files={"file": png})
    assert said.status_code == 201
    image = said.json()
    assert (image["width"], image["height"]) == (256, 256)
    assert image["expires_in"] == 600
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
    said = server.client.post("/v1/segment", json={"image": data_uri, "queries": [query], "heat_map": True}).json()
    right = opened.segment(query)
    assert said["answers"][0]["area"] == pytest.approx(int(right.mask.sum()), rel=0.01)
    assert said["heat_maps"][0][3] == pytest.approx(right.heat_map[3].tolist(), abs=1e-4)
