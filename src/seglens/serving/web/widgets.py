"""The widgets of the page and their places; `handlers` defines what they do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import gradio as gr

from seglens.checkpoints.origin import EMBEDDED
from seglens.serving.web.examples import EXAMPLES
from seglens.serving.web.layers import data_uri, picture
from seglens.serving.web.page_limits import PageLimits

TITLE = """# SegLens
Ask a multimodal LLM about a picture and see what it means, pixel by pixel."""
ABOUT_EMBEDDED = """**You are chatting with the embedded model**, a tiny model in the package. It was trained
only on drawn scenes like the examples: it knows a few dozen things, their parts and colours, nothing of photographs,
and it makes mistakes.

**For photographs**, train a head for an MLLM that you run, or convert a published one, and open this page with
`seglens page --model FOLDER_OR_HUB_ID`. The page *Photographs* of the docs (`docs/photographs.md`) explains how."""
ABOUT_OTHER = "The model on this page is **{}**."
LAYERS = [("Mask", "mask"), ("Heat map", "heat"), ("Keypoints", "keypoints")]
ROUTES = [
    ("Automatic", "auto"),
    ("Dialogue", "dialogue"),
    ("Segmentation", "segmentation"),
    ("Follow-up", "followup"),
]
ROUTE_NAMES = {value: name for name, value in ROUTES}
ROUTES_HELP = (
    "Dialogue answers in words, segmentation draws a mask, follow-up answers about the last mask. "
    "Automatic: the model itself decides."
)
MODES = [("belongs to it", "add"), ("does not belong to it", "remove"), ("box around it", "box")]
SHOW_LAYERS = """(shown) => { for (const layer of ["mask", "heat", "keypoints"])
  document.querySelector("#stage").classList.toggle("no-" + layer, !shown.includes(layer)); }"""
TICKET = """(ticket, key) => { try { return [sessionStorage.getItem("seglens") ?? "", key]; }
  catch { return ["", key]; } }"""  # a browser may forbid storage
SHOW_MODE = '(mode) => { document.querySelector("#stage").classList.toggle("box", mode === "box"); }'


@dataclass(frozen=True)
class Widgets:
    """The widgets that handlers read and write."""

    key: gr.State  # of the visit, known to the server and to this tab alone
    ticket: gr.Textbox  # the key that the tab stored before a reload
    examples: gr.HTML
    upload: gr.UploadButton
    stage: gr.HTML
    layers: gr.CheckboxGroup
    mode: gr.Radio
    files: gr.HTML
    chat: gr.Chatbot
    message: gr.Textbox
    route: gr.Radio
    scores: gr.Label
    suggestions: gr.Dataset


def place(limits: PageLimits, model: str, can_refine: bool) -> Widgets:
    """Place the widgets on the page that is being built."""
    key, ticket = gr.State(None), gr.Textbox(visible=False)
    gr.Markdown(TITLE, elem_id="title")
    with gr.Row(elem_id="main"):
        with gr.Column(scale=3, min_width=320, elem_id="left"):
            examples, upload = _pictures()
            stage, layers, mode, downloads = _stage(can_refine)
        with gr.Column(scale=2, min_width=320, elem_id="right"):
            chat, message, suggestions, route, scores = _chat(limits)
    gr.Markdown(ABOUT_EMBEDDED if model == EMBEDDED else ABOUT_OTHER.format(model), elem_id="about")
    return Widgets(
        key, ticket, examples, upload, stage, layers, mode, downloads, chat, message, route, scores, suggestions
    )


def _pictures() -> tuple[gr.HTML, gr.UploadButton]:
    thumbnails = [{"picture": data_uri(picture(one.image, 128)), "description": one.description} for one in EXAMPLES]
    with gr.Row(elem_id="pictures"):
        examples = gr.HTML(
            thumbnails,
            elem_id="examples",
            html_template=asset("examples.html"),
            js_on_load=asset("examples.js"),
            apply_default_css=False,
        )
        upload = gr.UploadButton("Upload a picture", type="binary", file_types=["image"], elem_id="upload", size="md")
    return examples, upload


def _stage(can_refine: bool) -> tuple[gr.HTML, gr.CheckboxGroup, gr.Radio, gr.HTML]:
    stage = gr.HTML(
        None, elem_id="stage", html_template=asset("stage.html"), js_on_load=asset("stage.js"), apply_default_css=False
    )
    with gr.Row(elem_id="tools"):
        layers = gr.CheckboxGroup(
            LAYERS, value=[value for _, value in LAYERS], label="Layers", elem_id="layers", min_width=240
        )
        mode = gr.Radio(
            MODES,
            value="add",
            label="Correct the mask: what I click",
            elem_id="mode",
            min_width=280,
            visible=can_refine,
        )
    downloads = gr.HTML(None, elem_id="files", html_template=asset("files.html"), apply_default_css=False)
    layers.change(None, layers, None, js=SHOW_LAYERS)
    mode.change(None, mode, None, js=SHOW_MODE)
    return stage, layers, mode, downloads


def _chat(limits: PageLimits) -> tuple[gr.Chatbot, gr.Textbox, gr.Dataset, gr.Radio, gr.Label]:
    chat = gr.Chatbot(
        [],
        label="Conversation",
        elem_id="chat",
        height=360,
        render_markdown=False,
        latex_delimiters=[],
        buttons=[],
        show_label=False,
        group_consecutive_messages=False,
        placeholder="Choose a picture, then ask a question or write what to segment.",
    )
    message = gr.Textbox(
        label="Your message",
        placeholder="segment the cup",
        elem_id="words",
        lines=1,
        max_length=limits.characters,
        submit_btn="Send",
    )
    suggestions = gr.Dataset(
        components=[gr.Textbox(render=False)], samples=[], label="Suggestions", elem_id="tries", visible=False
    )
    route = gr.Radio(ROUTES, value="auto", label="Route of the next message", info=ROUTES_HELP, elem_id="route")
    scores = gr.Label(
        None,
        label="Route of the last message",
        num_top_classes=3,
        elem_id="scores",
        show_heading=False,
        visible=False,
    )
    return chat, message, suggestions, route, scores


@cache
def asset(name: str) -> str:
    """The text of one of the page's own files."""
    return (files("seglens.serving.web") / "assets" / name).read_text("utf-8")
