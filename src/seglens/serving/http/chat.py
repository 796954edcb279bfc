"""Chat about images, in the format of OpenAI's clients.

Nothing is stored between requests: an answer depends on the messages alone. The masks of earlier turns are computed
again by going through those turns, each of which costs its route and, if it segmented, its masks; an image that was
sent before is open already.
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
from seglens.serving.http.open_images import StoredImage
from seglens.serving.http.request_images import JSON, only_json
from seglens.serving.http.service import Receive, Service
from seglens.serving.http.streaming import PieceQueue, events
from seglens.serving.http.unsupported import check_parameters

STREAM = "text/event-stream"


@dataclass(frozen=True)
class UserTurn:
    """A message of a user: text, the images it is about and, if known, the route of its answer."""

    text: str
    images: tuple[str, ...] = ()
    route: str | None = None


@dataclass(frozen=True)
class ChatHistory:
    """All turns, with their images by name, which stay open meanwhile; the last turn is to be answered."""

    turns: Sequence[UserTurn]
    images: dict[str, StoredImage]
    options: GenerationOptions
    trust: bool


def chat_routes(service: Service, agent: Agent) -> APIRouter:
    router = APIRouter(prefix="/v1/chat", tags=["chat"], dependencies=[Depends(only_json)])

    @router.post(
        "/completions",
        response_model=ChatCompletion,
        responses=DOCUMENTED,
        summary="Chat, with images or without; masks are in `seglens`",
    )
    async def complete(body: ChatRequest, request: Request) -> Response:
        turns = read_turns(body)
        _check(body, turns, service)
        writer = CompletionWriter(service, body)
        with ExitStack() as stack:
            images = await _images(service, turns, stack, request.receive)
            queue = PieceQueue() if body.stream else None
            on_piece = None if queue is None else queue.put
            options = GenerationOptions(_tokens(body, service.settings.answer_tokens), on_piece, body.stops)
            job = Job(
                [ChatHistory(turns, images, options, body.seglens.trust)],
                partial(_replies, agent),
                long=True,
                kind="chat",
            )
            if queue is None:
                (reply,) = await service.wait(job, request.receive)
                return Response(await service.in_worker(partial(writer.whole, reply)), media_type=JSON)
            answer = asyncio.create_task(service.wait(job, request.receive))
            answer.add_done_callback(partial(_done, queue, stack.pop_all()))
        await queue.begin(answer)
        pieces = events(service, writer, queue, answer, request.state.request_id)
        return StreamingResponse(pieces, media_type=STREAM)

    return router


def _done(queue: PieceQueue, stack: ExitStack, answer: asyncio.Task[list[Reply]]) -> None:
    """The answer is complete, or was given up."""
    stack.close()
    queue.end()
    if not answer.cancelled():
        answer.exception()  # retrieved, so that asyncio does not log it for a client that has disconnected


async def _images(
    service: Service, turns: Sequence[UserTurn], stack: ExitStack, receive: Receive
) -> dict[str, StoredImage]:
    """The images of all turns, which stay open until the stack is closed."""
    return {
        image: stack.enter_context(await service.chat_image(image, receive))
        for image in dict.fromkeys(image for turn in turns for image in turn.images)
    }


def _replies(agent: Agent, histories: Sequence[ChatHistory]) -> list[Reply]:
    """Runs in the model's thread."""
    return [_reply(agent, history) for history in histories]


def _reply(agent: Agent, history: ChatHistory) -> Reply:
    for stored in history.images.values():
        stored.conversation_image = stored.conversation_image or agent.prepare(stored.opened)
    *earlier, last = history.turns
    conversation = agent.start()
    for turn in earlier:
        conversation.show(*_images_of(history, turn))
        if turn.text and turn.images:  # an image alone asks nothing, and text alone gives no mask
            conversation.recall(turn.text, turn.route, history.trust)
    conversation.show(*_images_of(history, last))
    return conversation.say(last.text, last.route, history.trust, history.options)


def _images_of(history: ChatHistory, turn: UserTurn) -> list[ConversationImage]:
    images = [history.images[name].conversation_image for name in turn.images]
    return [image for image in images if image is not None]


# ---------------------------------------------------------------- reading


def read_turns(request: ChatRequest) -> list[UserTurn]:
    """The user's turns, each with the images that it is about: its own, or else those of the turn before. Raises an
    ApiError (400) when the last message is not the user's."""
    role = request.messages[-1].role
    if role != "user":
        text = f"the last message is of the role {role!r}; end with one of the user's, to be answered"
        raise ApiError(400, "invalid_messages", text, "messages")
    turns, images = list[UserTurn](), tuple[str, ...]()
    for number, message in enumerate(request.messages):
        if isinstance(message, UserMessage):
            images = tuple(message.images) or images
            turns.append(UserTurn(message.text, images, _route(request.messages[number + 1 :])))
    return [*turns[:-1], replace(turns[-1], route=request.seglens.route)]


def _route(following: Sequence[ChatMessage]) -> str | None:
    """The route of the answer that follows, if it states one."""
    answer = following[0] if following else None
    return answer.seglens.route.intent if isinstance(answer, AssistantMessage) and answer.seglens else None


def _check(request: ChatRequest, turns: Sequence[UserTurn], service: Service) -> None:
    """Raises an ApiError for another model's name, for parameters that are not supported, and for a chat that is too
    long."""
    settings = service.settings
    service.check_model(request.model)
    check_parameters(request.model_extra or {})
    if request.stream_options is not None and not request.stream:
        raise ApiError(
            400,
            "unsupported_parameter",
            "got stream_options without stream=true; send both, or neither",
            "stream_options",
        )
    images = sum(len(turn.images) for k, turn in enumerate(turns) if not k or turn.images != turns[k - 1].images)
    if len(request.messages) > settings.messages or images > settings.chat_images:
        raise ApiError(
            413,
            "chat_too_long",
            f"got {len(request.messages)} messages with {images} images; at most {settings.messages} with "
            f"{settings.chat_images} are accepted: leave out the oldest",
            "messages",
        )
    for turn in turns:
        service.check_length(turn.text, "messages")


def _tokens(request: ChatRequest, limit: int) -> int:
    return min(request.max_completion_tokens or limit, request.max_tokens or limit, limit)
