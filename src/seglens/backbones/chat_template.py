"""How a conversation is laid out in tokens: the model's own template, the image first, then the question."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from seglens.backbones.unknown_words import Vocabulary

LONGEST_QUESTION = 512  # tokens that are read, as in LISA's training; a chat may be longer
PROBES = ("the red cup", "?")  # questions that show a template's layout


class QuestionError(ValueError):
    """A question, or an answer to it, that cannot be read: empty, or too long."""


class Prompts:
    """The conversations of a processor. `image_text` is what it puts in place of an image, with one image token:
    `row_token`, by default that of its template.

    Raises ValueError when the template does not put one image before the question: what stands before a question is
    shared by all of them."""

    system: str | None = None  # the text before the image
    plain_system: bool = False  # whether the template takes it as a string, not as a list of parts

    def __init__(self, processor: Any, image_text: str, name: str, row_token: str | None = None):
        self.processor, self._image_text, self._name = processor, image_text, name
        self._vocabulary = Vocabulary(processor.tokenizer)
        self._row_token = row_token or processor.image_token
        self._placeholders = {
            vars(processor)[f"{kind}_token"]: kind for kind in ("image", "video") if f"{kind}_token" in vars(processor)
        } | {self._row_token: "image"}
        self._check_order()
        self._placeholders |= dict.fromkeys(self._further_marks(), "image")

    def _check_order(self) -> None:
        for probe in PROBES:
            before, image, after = self.text(probe).partition(self.processor.image_token)
            before = before.replace(self.system or "", "", 1)  # which may hold any words
            if not image or probe in before or probe not in after or image in after:
                raise ValueError(
                    f"the chat template of {self._name} does not put one image before the question; "
                    "a prefix can then not be shared by questions: correct the template"
                )

    def _further_marks(self) -> list[str]:
        """What else the processor counts to an image and puts nowhere else: Molmo 2's tokens that begin and end one,
        and its rows."""
        before, after = self._split(PROBES[0])
        ids = {*getattr(self.processor, "image_token_ids", ())} - {None, *before, *after}
        return list(self.processor.tokenizer.convert_ids_to_tokens(sorted(ids)))

    def with_system_text(self, system: str) -> Prompts:
        """The same conversations, which begin with a system text.

        Raises ValueError when the template leaves it out or refuses it."""
        prompts = copy.copy(self)
        try:
            prompts.system, prompts.plain_system = system, self._prints_system_as_it_stands()
        except TemplateError as error:  # Molmo 2's
            raise ValueError(
                f"the chat template of {self._name} takes no system text ({error}); "
                "train without one (the preset default)"
            ) from error
        prompts._check_order()
        if system not in prompts.text(PROBES[0]).partition(self.processor.image_token)[0]:
            raise ValueError(
                f"the chat template of {self._name} leaves out the system text {system[:60]!r}; correct the template, "
                "or train without one (the preset default)"
            )
        return prompts

    def _prints_system_as_it_stands(self) -> bool:
        """Whether the template prints the content of a system turn without looking for its parts (GLM-4.1V's does)."""
        turn = _turn("system", PROBES[1])
        text = self.processor.apply_chat_template([turn, _turn("user", PROBES[0], 1)], add_generation_prompt=True)
        return str(turn["content"]) in text

    def text(self, question: str, images: int = 1) -> str:
        """The conversation in the model's own template, up to where the answer begins."""
        begin = [] if self.system is None else [_turn("system", self.system)]
        if self.system is not None and self.plain_system:
            begin = [{"role": "system", "content": self.system}]
        conversation = [*begin, _turn("user", question, images)]
        return self.processor.apply_chat_template(conversation, add_generation_prompt=True)

    def begins(self, text: str) -> bool:
        """Whether the tokenizer is to begin a conversation: not where the template did, as Gemma's does."""
        token = self.processor.tokenizer.bos_token
        return token is None or not text.startswith(token)

    def before(self) -> list[int]:
        """Token ids before the image: the same for every question."""
        return self._split(PROBES[0])[0]

    def after(self, question: str) -> list[int]:
        """Token ids after the image: the question, up to the start of the answer.

        Raises QuestionError for a question that is empty, not Unicode, or that stands for an image."""
        self.check(question)
        ids = self._split(question)[1]
        self._refuse_placeholders(question, ids, "a question")
        return ids

    def unknown(self, question: str) -> tuple[str, ...]:
        """The words of a question that the tokenizer does not know."""
        return self._vocabulary.unknown(question)

    def text_tokens(self, text: str) -> list[int]:
        """Token ids of a piece of an answer. Raises QuestionError for one that is not Unicode or stands for an
        image."""
        self._refuse_other_than_unicode(text, "an answer")
        ids = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        self._refuse_placeholders(text, ids, "an answer")
        return ids

    def check(self, question: str) -> None:
        """Raises QuestionError for a question that is empty or not Unicode."""
        if not question.strip():
            raise QuestionError("got an empty question; say in words what to look for, such as 'the red cup'")
        self._refuse_other_than_unicode(question, "a question")

    @staticmethod
    def _refuse_other_than_unicode(text: str, what: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise QuestionError(f"got {what} that is not valid Unicode ({error.reason}); check its encoding") from None

    def _refuse_placeholders(self, text: str, ids: list[int], what: str) -> None:
        for token, kind in self._placeholders.items():
            # by text for the processor, by id for a tokenizer that spells it in other ways too
            if token in text or self._id(token) in ids:
                raise QuestionError(
                    f"got {what} that contains {token!r}, which stands for the {kind} itself; leave it out"
                )

    @staticmethod
    def refuse_none(questions: Sequence[str]) -> None:
        """Raises QuestionError for no question."""
        if not questions:
            raise QuestionError("got no question; ask at least one")

    def question_tokens(self, questions: Sequence[str]) -> list[list[int]]:
        """The token ids after the image for each of the questions.

        Raises QuestionError as `after` does, for no question, and for one that is too long."""
        self.refuse_none(questions)
        tokens = [self.after(question) for question in questions]
        longest = max(map(len, tokens))
        if longest > LONGEST_QUESTION:
            raise QuestionError(f"got a question of {longest} tokens; at most {LONGEST_QUESTION} are read; shorten it")
        return tokens

    def _split(self, question: str) -> tuple[list[int], list[int]]:
        text = self.text(question).replace(self.processor.image_token, self._image_text, 1)
        ids = self.processor.tokenizer(text, add_special_tokens=self.begins(text)).input_ids
        at = ids.index(self._id(self._row_token))
        return ids[:at], ids[at + 1 :]

    def _id(self, token: str) -> int:
        return self.processor.tokenizer.convert_tokens_to_ids(token)


def _turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    """A turn of a conversation, as chat templates take it."""
    return {"role": role, "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}
