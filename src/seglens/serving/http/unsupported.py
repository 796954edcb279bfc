"""OpenAI's parameters that have no effect here: accepted where they ask for what is done anyway, else refused by name.

A parameter that is accepted without effect would give a wrong answer that looks right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seglens.serving.http.api_errors import ApiError

GREEDY = "answers are always the most likely words, as with temperature 0"
NO_TOOLS = "the model calls no tools; give none, or tool_choice='none'"
NO_SCORES = "the probabilities of tokens are not returned"
ONE_MODEL = "there is one model, and one way to run it"
NOT_KEPT = "nothing is stored"

# Whatever their value, no answer changes: hints for a provider, and names for its accounting.
HINTS = frozenset(
    {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "seed"}
)
# For every other parameter that OpenAI documents: the values that ask for what is done anyway, and why no other is
# accepted
PARAMETERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature": ((0, 1), f"{GREEDY}; 1 is accepted as the default that some clients send"),
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
    "response_format": (({"type": "text"},), "answers are words, and masks in `seglens`; no other format is supported"),
    "modalities": ((["text"],), "answers are words, and masks in `seglens`"),
    "audio": ((), "answers are words, and masks in `seglens`"),
    "prediction": ((), "answers are not predicted"),
    "web_search_options": ((), "nothing is searched"),
    "moderation": ((), "nothing is moderated"),
    "store": ((False,), NOT_KEPT),
    "metadata": (({},), NOT_KEPT),
    "service_tier": (("auto", "default"), ONE_MODEL),
    "reasoning_effort": (("none",), "the model does not reason before it answers"),
    "verbosity": (("medium",), "max_completion_tokens bounds an answer's length"),
}


def check_parameters(sent: Mapping[str, Any]) -> None:
    """Raises an ApiError (400) for the first parameter that asks for what is not done. A value of None asks for
    nothing."""
    for name, value in sent.items():
        if value is None or name in HINTS or _is_without_effect(name, sent):
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
            raise ApiError(400, "unsupported_parameter", _message(name, value, neutral, why), name)


def _message(name: str, value: Any, neutral: tuple[Any, ...], why: str) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:60]}..."
    accepted = f", or send {' or '.join(map(repr, neutral))}" if neutral else ""
    return f"got {name}={text}, which is not supported: {why}; leave it out{accepted}"


def _is_without_effect(name: str, sent: Mapping[str, Any]) -> bool:
    """Whether another parameter leaves this one without effect: with the most likely words alone, every `top_p` keeps
    the first; and tools that must not be called are never called."""
    return (name == "top_p" and _same(sent.get("temperature"), 0)) or (
        name in ("tools", "functions") and "none" in (sent.get("tool_choice"), sent.get("function_call"))
    )


def _same(value: Any, neutral: Any) -> bool:
    """Equal, where True is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
