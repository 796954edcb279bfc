"""Talk about images, in the form that OpenAI's clients speak.

Nothing is kept between requests: an answer follows from the messages alone. The masks that earlier turns left behind
are found again by going through those turns, each of which costs its route and, if it segmented, its masks; an image
is open already when it was sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from seglens.agent import Agent, ConversationImage, Reply
from seglens.backbones import GenerationOptions
from seglens.serving.http.api_errors import DOCUMENTED, ApiError
from seglens.serving.http.batcher import Job
from seglens.serving.http.chat_replies import CompletionWriter
from seglens.serving.http.completions import ChatCompletion, ChatRequest
from seglens.serving.http.messages import AssistantMessage, ChatMessage, UserMessage
from seglens.serving.http.open_images import Held
from seglens.serving.http.request_images import JSON, only_json
from seglens.serving.http.service import Receive, Service
from seglens.serving.http.streaming import Wire, events
from seglens.serving.http.unsupported import check_parameters

STREAM = "text/event-stream"


@dataclass(frozen=True)
class UserTurn:
    """What a user said: words, the images they are about and, if it is known, the way the answer went."""

    text: str
    images: tuple[str, ...] = ()
    route: str | None = None


@dataclass(frozen=True)
class ChatHistory:
    """All turns, with their images held open by name; the last is to be answered, by `route` if one is given."""

    turns: Sequence[UserTurn]
    images: dict[str, Held]
    manner: GenerationOptions
    trust: bool


def chat_routes(service: Service, agent: Agent) -> APIRouter:
    router = APIRouter(prefix="/v1/chat", tags=["chat"], dependencies=[Depends(only_json)])

    @router.post(
        "/completions",
        response_model=ChatCompletion,
        responses=DOCUMENTED,
        summary="Talk, about images or without; masks come in `seglens`",
    )
    async def complete(asked: ChatRequest, request: Request) -> Response:
        turns = read_turns(asked)
        _check(asked, turns, service)
        write = CompletionWriter(service, asked)
        with ExitStack() as stack:
            images = await _images(service, turns, stack, request.receive)
            wire = Wire() if asked.stream else None
            tell = None if wire is None else wire.tell
            manner = GenerationOptions(_tokens(asked, service.settings.answer_tokens), tell, asked.stops)
            job = Job([ChatHistory(turns, images, manner, asked.seglens.trust)], partial(_talk, agent), long=True)
            if wire is None:
                (reply,) = await service.wait(job, request.receive)
                return Response(await service.by_hand(partial(write.whole, reply)), media_type=JSON)
            answer = asyncio.create_task(service.wait(job, request.receive))
            answer.add_done_callback(partial(_done, wire, stack.pop_all()))
        await wire.begin(answer)
        said = events(service, write, wire, answer, request.state.request_id)
        return StreamingResponse(said, media_type=STREAM)

    return router


def _done(wire: Wire, stack: ExitStack, answer: asyncio.Task[list[Reply]]) -> None:
    """The answer is there, or nobody waits for it any more."""
    stack.close()
    wire.end()
    if not answer.cancelled():
        answer.exception()  # seen: a client that left hears of none


async def _images(service: Service, turns: Sequence[UserTurn], stack: ExitStack, receive: Receive) -> dict[str, Held]:
    """The images of all turns, held open as long as the stack stands."""
    return {
        image: stack.enter_context(await service.shown_before(image, receive))
        for image in dict.fromkeys(image for turn in turns for image in turn.images)
    }


def _talk(agent: Agent, talks: Sequence[ChatHistory]) -> list[Reply]:
    """Runs where the model is."""
    return [_reply(agent, talk) for talk in talks]


def _reply(agent: Agent, talk: ChatHistory) -> Reply:
    for held in talk.images.values():
        held.sight = held.sight or agent.look(held.opened)
    *earlier, last = talk.turns
    talking = agent.start()
    for turn in earlier:
        talking.show(*_sights(talk, turn))
        if turn.text and turn.images:  # an image alone says nothing, and words alone leave no mask
            talking.recall(turn.text, turn.route, talk.trust)
    talking.show(*_sights(talk, last))
    return talking.say(last.text, last.route, talk.trust, talk.manner)


def _sights(talk: ChatHistory, turn: UserTurn) -> list[ConversationImage]:
    sights = [talk.images[image].sight for image in turn.images]
    return [sight for sight in sights if sight is not None]


# ---------------------------------------------------------------- reading


def read_turns(asked: ChatRequest) -> list[UserTurn]:
    """The user's turns, each with the images that it is about: its own, or else those of the turn before. Raises a
    Refusal (400) when the user does not speak last."""
    if not isinstance(asked.messages[-1], UserMessage):
        raise ApiError(
            400,
            "invalid_messages",
            f"the last message is of the role {asked.messages[-1].role!r}; end with one of the user's, to be answered",
            "messages",
        )
    turns, images = list[UserTurn](), tuple[str, ...]()
    for number, message in enumerate(asked.messages):
        if isinstance(message, UserMessage):
            images = tuple(message.images) or images
            turns.append(UserTurn(message.text, images, _way(asked.messages[number + 1 :])))
    return [*turns[:-1], replace(turns[-1], route=asked.seglens.route)]


def _way(behind: Sequence[ChatMessage]) -> str | None:
    """How the answer that follows came about, if it says so."""
    answer = behind[0] if behind else None
    return answer.seglens.route.intent if isinstance(answer, AssistantMessage) and answer.seglens else None


def _check(asked: ChatRequest, turns: Sequence[UserTurn], service: Service) -> None:
    """Raises a Refusal for another model's name, for what is not done here, and for more than is taken."""
    settings = service.settings
    service.check_model(asked.model)
    check_parameters(asked.model_extra or {})
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(
            400,
            "unsupported_parameter",
            "got stream_options without stream=true; send both, or neither",
            "stream_options",
        )
    images = sum(len(turn.images) for k, turn in enumerate(turns) if not k or turn.images != turns[k - 1].images)
    if len(asked.messages) > settings.messages or images > settings.chat_images:
        raise ApiError(
            413,
            "chat_too_long",
            f"got {len(asked.messages)} messages with {images} images; at most {settings.messages} with "
            f"{settings.chat_images} are taken: leave out the oldest",
            "messages",
        )
    for turn in turns:
        service.check_length(turn.text, "messages")


def _tokens(asked: ChatRequest, most: int) -> int:
    return min(asked.max_completion_tokens or most, asked.max_tokens or most, most)
