"""What the OpenAPI file promises, tried by schemathesis against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from http_server import Served

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"
api = schemathesis.openapi.from_path(FILE)


def test_the_file_is_what_the_server_says(server: Served) -> None:
    schema = server.client.get("/openapi.json").json()
    again = "curl -s http://127.0.0.1:8000/openapi.json | python -m json.tool --indent 1 > docs/openapi.json"
    assert schema == json.loads(FILE.read_text()), f"the API has changed; run `seglens serve`, and then `{again}`"


@pytest.mark.slow
@api.parametrize()
# schemathesis combines strategies in a way that hypothesis will one day refuse; now and then it warns
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # what it learns of answers would make shrinking flaky
)
def test_answers_are_as_promised(case: schemathesis.Case, server: Served) -> None:
    """Every status documented, every body of its schema, no error of the server. Left out: that whatever fits the
    schema is accepted, since no schema states which text is a picture, or the id of an open one."""
    case.call_and_validate(base_url=server.address, excluded_checks=[positive_data_acceptance])
