"""Methods by name. A new one is one file and one line of `METHODS`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

from seglens.methods.lens import Lens, LensConfig, PromptDecoder
from seglens.names import check_name


@runtime_checkable
class Source(Protocol):
    """A backbone as the builder of a method sees it."""

    width: int
    heads: int
    feed_forward: int

    def clone_layers(self, count: int = 2) -> list: ...


def build_lens(config: LensConfig, backbone: Source, decoder: PromptDecoder) -> Lens:
    """A fresh LENS head: its two layers continue the backbone exactly, the rest is new."""
    return Lens(config, backbone.clone_layers(2), backbone.width, backbone.heads, backbone.feed_forward, decoder)


METHODS = {"lens": (LensConfig, build_lens)}


def build_method(name: str, settings: dict[str, Any], backbone: Source, decoder: PromptDecoder) -> Lens:
    """The method of that name with these settings. Raises ValueError on an unknown name or setting."""
    check_name(name, METHODS, "method")
    config, build = METHODS[name]
    unknown = settings.keys() - {f.name for f in fields(config)}
    if unknown:
        raise ValueError(
            f"{name} has no setting {', '.join(sorted(unknown))}; it was saved by another version of seglens"
        )
    return build(config(**settings), backbone, decoder)


__all__ = ["METHODS", "Lens", "LensConfig", "build_lens", "build_method"]
