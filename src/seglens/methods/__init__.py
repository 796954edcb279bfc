"""Methods by name. A new one is one file and one line of `METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from seglens.core.names import check_name
from seglens.methods import lens, lisa, mllmseg, self1e, ufo
from seglens.methods.base import BackboneSource, Method, PromptDecoder
from seglens.methods.lens import Lens, LensConfig, build_lens
from seglens.methods.localization import LocalizationConfig, build_localization
from seglens.methods.mllmseg import MLLMSegConfig, build_mllmseg
from seglens.methods.preset import Preset


@dataclass(frozen=True)
class Kind:
    """A method: its config, its builder, whether it trains an adapter of the MLLM or reads it frozen, whether it needs
    a promptable mask decoder (SAM), and its presets by name; a method without presets has nothing to train."""

    config: type
    build: Callable[..., Method]
    tuned: bool
    needs_decoder: bool
    presets: Mapping[str, Preset[Any]] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        return bool(self.presets)


METHODS: dict[str, Kind] = {
    "lens": Kind(LensConfig, build_lens, tuned=False, needs_decoder=True, presets=lens.PRESETS),
    "mllmseg": Kind(MLLMSegConfig, build_mllmseg, tuned=True, needs_decoder=False, presets=mllmseg.PRESETS),
    "self1e": Kind(self1e.Self1eConfig, self1e.build_self1e, tuned=True, needs_decoder=False, presets=self1e.PRESETS),
    "lisa": Kind(lisa.LisaConfig, lisa.build_lisa, tuned=True, needs_decoder=True, presets=lisa.PRESETS),
    "ufo": Kind(ufo.UfoConfig, ufo.build_ufo, tuned=True, needs_decoder=False, presets=ufo.PRESETS),
    "localization": Kind(LocalizationConfig, build_localization, tuned=False, needs_decoder=True),
}

# Values in saved heads that have another form now.
EARLIER: dict[str, dict[str, dict[Any, Any]]] = {
    "lens": {"newton": {True: "guarded", False: "none"}},
    "localization": {
        "join": {0.35: (0.35, 0.35)},
        "overlap": {0.15: (0.15, 0.15)},
        "threshold": {0.25: (0.25, 0.25)},
    },
}


def kind_of(name: str) -> Kind:
    """Raises ValueError with the nearest name on a typo."""
    check_name(name, METHODS, "method")
    return METHODS[name]


def method_settings(name: str, settings: dict[str, Any]) -> Any:
    """The config of that method with the settings of a checkpoint.

    Raises ValueError on an unknown name or setting."""
    config = kind_of(name).config  # values are ours: they stand under the seal of the checkpoint, or in a preset
    unknown = settings.keys() - {f.name for f in fields(config)}
    if unknown:
        raise ValueError(
            f"{name} has no setting {', '.join(sorted(unknown))}; it was saved by another version of seglens"
        )
    values = {key: _tuples(value) for key, value in settings.items()}
    for key, now in EARLIER.get(name, {}).items():
        if key in values:
            values[key] = now.get(values[key], values[key])
    return config(**values)


def _tuples(value: Any) -> Any:
    """Lists of JSON as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def build_method(config: Any, backbone: BackboneSource, decoder: PromptDecoder | None) -> Method:
    """A fresh method with this config. Raises ValueError when it needs a mask decoder and got none."""
    name = name_of(config)
    if METHODS[name].needs_decoder and decoder is None:
        raise ValueError(f"{name} draws its masks with a SAM or SAM 2 decoder and was given none; name one")
    return METHODS[name].build(config, backbone, decoder)


def name_of(config: Any) -> str:
    """The method of a config."""
    return next(name for name, kind in METHODS.items() if type(config) is kind.config)


__all__ = [
    "METHODS",
    "Kind",
    "Lens",
    "LensConfig",
    "LocalizationConfig",
    "Method",
    "build_lens",
    "build_method",
    "kind_of",
    "method_settings",
    "name_of",
]
