"""Named configurations of the methods. Every number is in the method's config class; a preset says what differs."""

from __future__ import annotations

import difflib

from seglens.methods.lens import LensConfig

LENS: dict[str, LensConfig] = {
    # as measured best in the miniature: see the ablation table in docs/ablations.md
    "default": LensConfig(),
    # the text of arXiv 2510.16785: Eq. 1, Eq. 5 (M is each cell's covered share) and S1.1 as written, no presence
    "paper": LensConfig(
        aggregate="mean", map_scale="raw", threshold=0.0, drop=0.5, attention_weight=1.0, presence_weight=0.0
    ),
    # the released code: last token's row, map divided by its peak at 128 x 128, relative threshold, i / (W - 1); what
    # still differs from it stands in docs/design.md, section 4
    "authors": LensConfig(
        aggregate="last",
        map_scale="peak",
        map_size=128,
        threshold=0.4,
        coordinates="corner",
        drop=0.9,
        attention_weight=1.0,
        presence_weight=0.0,
    ),
}


def lens_preset(name: str) -> LensConfig:
    """The LENS preset of that name. Raises ValueError with the nearest name on a typo."""
    if name not in LENS:
        near = difflib.get_close_matches(name, LENS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(LENS)}{hint}")
    return LENS[name]
