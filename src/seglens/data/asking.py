"""How a head is asked: the templates and the system text of its training, as its config holds them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from seglens.core.names import check_name
from seglens.core.types import Target
from seglens.data.dataset import Dataset
from seglens.data.prompts import LONG, PROMPTS, Prompted, worded
from seglens.data.subset import Limited

AS_IT_STANDS = "as it stands"  # the kind of a query that is put in no template
SENTENCE, PHRASE = "sentence", "phrase"
# In which preset of `PROMPTS` a head is asked that was trained in another; the rest are asked in their own
EVALUATION = {"lens": "lens-eval", "lisa": "lisa-eval", "ufo": "ufo-eval"}
# A query that begins so is a whole request or question: it has its own verb, and no template gives it another
_REQUEST = re.compile(
    r"(please|can|could|would|will|should|what|which|where|when|who|whose|whom|why|how|is|are|do|does|did|if|"
    r"i|we|you|let|segment|find|show|mark|outline|highlight|locate|identify|point|cut|select|give|draw|pick|get)\b",
    re.IGNORECASE,
)
LONG_PHRASE = 12  # words; a longer one is taken for a sentence
FULL_STOP = 5  # words; a longer one that ends in a full stop is one


@dataclass(frozen=True)
class Asking:
    """Templates with {query} for phrases (`short`) and whole sentences (`long`), and the `system` text that the MLLM is
    told before the image. `lower`: phrases in lower case; `undotted`: without full stops at their ends.

    Raises ValueError for a template without a place for the query."""

    short: str = "{query}"
    long: str = "{query}"
    lower: bool = False
    undotted: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            if getattr(self, name).count("{query}") != 1:
                raise ValueError(f"got {name}={getattr(self, name)!r}; it needs one {{query}} where the query goes")

    @classmethod
    def of(cls, preset: str, system: str | None = None) -> Asking | None:
        """How a head is asked that was trained in a preset of `PROMPTS`; None for bare queries without a system text.

        Raises ValueError on an unknown preset."""
        check_name(preset, PROMPTS, "prompt")
        forms = PROMPTS[EVALUATION.get(preset, preset)]
        made = cls(forms.short[0], forms.long[0], forms.lower, forms.undotted, system)
        return None if made == cls() else made

    def put(self, query: str, kind: str | None = None) -> str:
        """The query as the head is asked it. `kind` is that of a dataset's target, or `AS_IT_STANDS`; by default the
        words tell a sentence from a phrase. An empty one stays so, to be refused as such."""
        if kind == AS_IT_STANDS or not query.strip() or self.bare:
            return query
        kind = kind or (SENTENCE if is_sentence(query) else PHRASE)
        template = self.long if kind in LONG else self.short
        return template.replace("{query}", worded(query, kind, self.lower, self.undotted))

    @property
    def bare(self) -> bool:
        """Whether every query is asked as it stands."""
        return replace(self, system=None) == Asking()


def is_sentence(query: str) -> bool:
    """Whether a query is a whole sentence ("Which of these holds water?") and not the name of a thing, by its words."""
    said, count = query.strip(), len(query.split())
    return (
        said.endswith(("?", "!"))
        or _REQUEST.match(said) is not None
        or count > LONG_PHRASE
        or (count > FULL_STOP and said.endswith("."))
    )


def kind_to_ask(target: Target) -> str:
    """As `Asking.put` takes it: a query that its data has put in a template stands there already."""
    return AS_IT_STANDS if target.prompted else target.kind


def prompt_of(data: Dataset) -> str | None:
    """The preset in whose templates the queries of a dataset stand; None where they are bare."""
    if isinstance(data, Limited):
        return prompt_of(data.inner)
    return data.preset if isinstance(data, Prompted) else None


def asked_by(data: Dataset, preset: str) -> Dataset:
    """The dataset with its queries put as a head is asked that was trained in `preset`; as it is where they stand in
    templates already."""
    if preset == "none" or prompt_of(data) is not None:
        return data
    return Prompted(data, EVALUATION.get(preset, preset))
