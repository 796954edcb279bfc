"""Why an answer has no mask, in one sentence with what to do next; and notices about answers in words."""

from __future__ import annotations

from collections.abc import Sequence

UNFAMILIAR = (
    "The picture is not of the kind that this model was made for (SegLens's own drawn scenes), so that a mask would "
    "mean nothing. For photographs use a head of another multimodal LLM (docs/photographs.md), or ask with trust to "
    "see the mask all the same."
)
UNKNOWN = "{} to this model; say it in other words, or ask with trust to see the mask all the same."
ABSENT = "Nothing in the image fits {!r}{}."
EMPTY = "The model drew no pixel for {!r}; say it in other words."
EMPTIED = "The corrections leave no pixel of the mask; add a positive click."


def refusal(
    query: str,
    *,
    familiar: bool | None,
    unknown_words: Sequence[str],
    trust: bool,
    presence: float | None,
    believed: bool,
    drawn: bool,
) -> str | None:
    """Why no mask is shown; None when one is. `believed`: the target is judged present; `drawn`: the mask has pixels.

    With `trust`, an unfamiliar picture and unknown words are no reasons."""
    if familiar is False and not trust:
        return UNFAMILIAR
    if unknown_words and not trust:
        return UNKNOWN.format(unknown(unknown_words))
    if not believed:
        return ABSENT.format(query, "" if presence is None else f" (presence {presence:.2f})")
    return None if drawn else EMPTY.format(query)


def notice(familiar: bool | None, unknown_words: Sequence[str]) -> str | None:
    """A warning about an answer in words, which is the MLLM's and is not changed; None when there is none."""
    sentences = []
    if familiar is False:
        sentences.append(
            "The picture is not of the kind that this model was made for (SegLens's own drawn scenes), so that its "
            "answer may mean nothing; for photographs use another multimodal LLM (docs/photographs.md)."
        )
    if unknown_words:
        sentences.append(f"{unknown(unknown_words)} to this model, which answered as if other words had been said.")
    return " ".join(sentences) or None


def unknown(words: Sequence[str]) -> str:
    """The words with their verb: "The words 'a' and 'b' are unknown"."""
    quoted = [repr(word) for word in words]
    if len(quoted) == 1:
        return f"The word {quoted[0]} is unknown"
    return f"The words {', '.join(quoted[:-1])} and {quoted[-1]} are unknown"
