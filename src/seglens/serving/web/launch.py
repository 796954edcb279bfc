"""Serve the page on a port of this machine."""

from __future__ import annotations

import gradio as gr

from seglens.agent import Agent
from seglens.inference.segmenter import Segmenter
from seglens.serving.web.handlers import PageHandlers
from seglens.serving.web.page_limits import PageLimits
from seglens.serving.web.widgets import asset, place


def build(segmenter: Segmenter, model: str, limits: PageLimits) -> gr.Blocks:
    """The whole page for a segmenter; `model` is its name for visitors.

    Raises ValueError for a segmenter that was loaded with segmentation_only=True: it cannot chat."""
    agent = Agent(segmenter)
    # Every 600 seconds, uploaded files that are older than 600 seconds are deleted.
    with gr.Blocks(title="SegLens", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        PageHandlers(agent, limits, place(limits, model, segmenter.can_refine)).connect(blocks)
    return blocks.queue(max_size=limits.waiting, api_open=False)


def launch(blocks: gr.Blocks, limits: PageLimits, *, host: str, port: int | None, browser: bool) -> str:
    """Serve the page until `blocks.close()`; returns its address. Without a port: the first free one from 7860 on.

    Everything that the page needs comes from this machine; gradio's other services are switched off. Raises OSError
    when the port is in use."""
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=limits.upload_bytes,
        state_session_capacity=limits.visits,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css=asset("page.css"),
    )
    return address


def _theme() -> gr.themes.Default:
    """The system's own fonts, none from the network; small print dark enough to read (4.5 : 1 on white)."""
    theme = gr.themes.Default(primary_hue="rose", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        block_info_text_color="*neutral_600",
        block_title_text_color="*neutral_700",
        block_label_text_color="*neutral_700",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
