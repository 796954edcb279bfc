"""An agent for people: the frozen MLLM itself decides whether an instruction asks for words, for a mask, or for words
about the last mask (LENS, arXiv 2510.16785, section S2 and Algorithm S1)."""

from __future__ import annotations

from seglens.agent.agent import Agent
from seglens.agent.conversation import Conversation, ConversationImage, Reply, Turn
from seglens.agent.router import INTENTS, Intent, Route, RoutePrompt, Router

__all__ = [
    "INTENTS",
    "Agent",
    "Conversation",
    "ConversationImage",
    "Intent",
    "Reply",
    "Route",
    "RoutePrompt",
    "Router",
    "Turn",
]
