"""OpenAI's parameters that change nothing here: taken where they ask for what is done anyway, else refused by name.

A parameter that is taken and does nothing would be a wrong answer that looks right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seglens.serving.http.api_errors import ApiError

GREEDY = "answers are always the likeliest words, as with temperature 0"
NO_TOOLS = "the model calls no tools; give it none, or tool_choice='none'"
NO_SCORES = "the probabilities of tokens are not told"
ONE_MODEL = "there is one model, and one way to run it"
NOT_KEPT = "nothing is stored"

# Whatever they say, no answer changes: hints to a provider, and names for its books.
HINTS = frozenset(
    {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "seed"}
)
# Of every other parameter that OpenAI documents: the values that ask for what is done anyway, and why no other is
PARAMETERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature": ((0, 1), f"{GREEDY}; 1 is taken as the default that some clients send"),
    "top_p": ((1,), GREEDY),
    "n": ((1,), "one answer is given; ask again for another"),
    "presence_penalty": ((0,), GREEDY),
    "frequency_penalty": ((0,), GREEDY),
    "logit_bias": (({},), GREEDY),
    "logprobs": ((False,), NO_SCORES),
    "top_logprobs": ((0,), NO_SCORES),
    "tools": (([],), NO_TOOLS),
    "tool_choice": (("none", "auto"), NO_TOOLS),
    "parallel_tool_calls": ((True, False), NO_TOOLS),
    "functions": (([],), NO_TOOLS),
    "function_call": (("none", "auto"), NO_TOOLS),
    "response_format": (({"type": "text"},), "answers are words, and masks in `seglens`; no other form is kept to"),
    "modalities": ((["text"],), "answers are words, and masks in `seglens`"),
    "audio": ((), "answers are words, and masks in `seglens`"),
    "prediction": ((), "answers are not predicted"),
    "web_search_options": ((), "nothing is searched for"),
    "moderation": ((), "nothing is moderated"),
    "store": ((False,), NOT_KEPT),
    "metadata": (({},), NOT_KEPT),
    "service_tier": (("auto", "default"), ONE_MODEL),
    "reasoning_effort": (("none",), "the model does not think before it answers"),
    "verbosity": (("medium",), "max_completion_tokens bounds an answer's length"),
}


def check_parameters(sent: Mapping[str, Any]) -> None:
    """Raises a Refusal (400) for the first parameter that asks for what is not done. None asks for nothing."""
    for name, value in sent.items():
        if value is None or name in HINTS or _is_void(name, sent):
            continue
        if name not in PARAMETERS:
            raise ApiError(
                400,
                "unknown_parameter",
                f"there is no parameter {name[:60]!r} here; leave it out, or see /openapi.json",
                name[:60],
            )
        neutral, why = PARAMETERS[name]
        if not any(_same(value, one) for one in neutral):
            raise ApiError(400, "unsupported_parameter", _said(name, value, neutral, why), name)


def _said(name: str, value: Any, neutral: tuple[Any, ...], why: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    taken = "".join(f", or send {' or '.join(map(repr, neutral))}" if neutral else "")
    return f"got {name}={shown}, which is not supported: {why}; leave it out{taken}"


def _is_void(name: str, sent: Mapping[str, Any]) -> bool:
    """Whether another parameter leaves this one without effect: of the likeliest words alone, any share of the
    probability holds the first; and tools that must not be called are never called."""
    return (name == "top_p" and _same(sent.get("temperature"), 0)) or (
        name in ("tools", "functions") and "none" in (sent.get("tool_choice"), sent.get("function_call"))
    )


def _same(value: Any, neutral: Any) -> bool:
    """Equal, where True is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
