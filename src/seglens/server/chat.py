"""Talk about images, in the form that OpenAI's clients speak.

Nothing is kept between requests: an answer follows from the messages alone. The masks that earlier turns left behind
are found again by going through those turns, each of which costs its route and, if it segmented, its mask; the image
is open already when it was sent before.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from time import time
from typing import Literal

from fastapi import APIRouter, Request, Response

from seglens.agent import Agent, Reply, Sight
from seglens.schema import TalkAnswer
from seglens.server.batcher import Job
from seglens.server.completions import (
    ChatAnswer,
    ChatCompletion,
    ChatRequest,
    Choice,
    as_events,
)
from seglens.server.images import Held
from seglens.server.messages import AssistantMessage, ChatMessage, UserMessage
from seglens.server.refusals import DOCUMENTED, Refusal
from seglens.server.routes import heat_maps
from seglens.server.service import Receive, Service
from seglens.server.unsupported import check_parameters


@dataclass(frozen=True)
class Turn:
    """What a user said: words, the image they are about and, if it is known, the way the answer went."""

    text: str
    image: str
    route: str | None = None


@dataclass(frozen=True)
class Talk:
    """All turns, with their images held open by name; the last is to be answered, by `route` if one is given."""

    turns: Sequence[Turn]
    images: dict[str, Held]
    tokens: int
    trust: bool


def chat_routes(service: Service, agent: Agent) -> APIRouter:
    router = APIRouter(prefix="/v1/chat", tags=["chat"])

    @router.post(
        "/completions", response_model=ChatCompletion, responses=DOCUMENTED,
        summary="Talk about an image; masks come in `seglens`",
    )  # fmt: skip
    async def complete(asked: ChatRequest, request: Request) -> Response:
        turns = read_turns(asked)
        _check(asked, turns, service)
        tokens = _tokens(asked, service.settings.answer_tokens)
        with ExitStack() as stack:
            talk = Talk(turns, await _images(service, turns, stack, request.receive), tokens, asked.seglens.trust)
            reply = (await service.wait(Job([talk], partial(_talk, agent)), request.receive))[0]
        written = await service.by_hand(partial(_written, service, asked, reply, tokens))
        return Response(written, media_type="text/event-stream" if asked.stream else "application/json")

    return router


async def _images(service: Service, turns: Sequence[Turn], stack: ExitStack, receive: Receive) -> dict[str, Held]:
    """The images of all turns, held open as long as the stack stands."""
    return {
        image: stack.enter_context(await service.shown_before(image, receive))
        for image in dict.fromkeys(turn.image for turn in turns)
    }


def _talk(agent: Agent, talks: Sequence[Talk]) -> list[Reply]:
    """Runs where the model is."""
    return [_reply(agent, talk) for talk in talks]


def _reply(agent: Agent, talk: Talk) -> Reply:
    for held in talk.images.values():
        held.sight = held.sight or agent.look(held.opened)
    *earlier, last = talk.turns
    talking = agent.start(_sight(talk, talk.turns[0]), talk.tokens)
    for turn in earlier:
        talking.show(_sight(talk, turn))
        if turn.text:  # an image alone says nothing
            talking.recall(turn.text, turn.route, talk.trust)
    talking.show(_sight(talk, last))
    return talking.say(last.text, last.route, talk.trust)


def _sight(talk: Talk, turn: Turn) -> Sight:
    sight = talk.images[turn.image].sight
    assert sight is not None
    return sight


# ---------------------------------------------------------------- reading and writing


def read_turns(asked: ChatRequest) -> list[Turn]:
    """The user's turns, each with the image that it is about. Raises a Refusal (400) for messages that are no talk
    about an image."""
    if not isinstance(asked.messages[-1], UserMessage):
        raise _no_talk("the last message is not the user's; there is nothing to answer")
    turns, image = list[Turn](), None
    for number, message in enumerate(asked.messages):
        if isinstance(message, UserMessage):
            image = _image(message, image)
            turns.append(Turn(message.text, image, _way(asked.messages[number + 1 :])))
    return [*turns[:-1], replace(turns[-1], route=asked.seglens.route)]


def _image(message: UserMessage, before: str | None) -> str:
    """The image that a message is about: its own, or the one before."""
    images = message.images
    if len(images) > 1:
        raise _no_talk(f"a message brings {len(images)} images; send one with each message")
    if not images and before is None:
        raise _no_talk("no image came with, or before, the user's first words; send one as an image_url part")
    return images[0] if images else before or ""


def _way(behind: Sequence[ChatMessage]) -> str | None:
    """How the answer that follows came about, if it says so."""
    answer = behind[0] if behind else None
    return answer.seglens.route.intent if isinstance(answer, AssistantMessage) and answer.seglens else None


def _no_talk(message: str) -> Refusal:
    return Refusal(400, "invalid_messages", message, "messages")


def _check(asked: ChatRequest, turns: Sequence[Turn], service: Service) -> None:
    """Raises a Refusal for another model's name, and for more than is taken."""
    settings = service.settings
    service.check_model(asked.model)
    check_parameters(asked.model_extra or {})
    images = len({turn.image for turn in turns})
    if len(asked.messages) > settings.messages or images > settings.chat_images:
        raise Refusal(
            413, "chat_too_long",
            f"got {len(asked.messages)} messages with {images} images; at most {settings.messages} with "
            f"{settings.chat_images} are taken: leave out the oldest", "messages",
        )  # fmt: skip
    for turn in turns:
        service.check_length(turn.text, "messages")


def _tokens(asked: ChatRequest, most: int) -> int:
    return min(asked.max_completion_tokens or most, asked.max_tokens or most, most)


def _content(reply: Reply) -> str:
    """The words, and behind them what to know about them: most clients show nothing else."""
    return reply.text if reply.notice is None else f"{reply.text}\n\n({reply.notice})"


def _written(service: Service, asked: ChatRequest, reply: Reply, tokens: int) -> bytes:
    """The answer as JSON, or as events."""
    said, predictions = reply.answer(), reply.predictions
    ours = TalkAnswer(
        route=said.route, notice=said.notice, answers=said.answers, ignored=asked.ignored,
        heat_maps=heat_maps(predictions) if asked.seglens.heat_map else None,
    )  # fmt: skip
    words = service.segmenter.backbone.processor.tokenizer(reply.text, add_special_tokens=False).input_ids
    ended: Literal["stop", "length"] = "length" if not predictions and len(words) >= tokens else "stop"
    whole = ChatCompletion(
        id=f"chatcmpl-{secrets.token_hex(12)}", created=int(time()), model=service.settings.model_name,
        choices=[Choice(message=ChatAnswer(content=_content(reply), seglens=ours), finish_reason=ended)],
    )  # fmt: skip
    return as_events(whole) if asked.stream else whole.model_dump_json().encode()
