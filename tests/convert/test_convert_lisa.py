"""LISA's checkpoints, under their own names, become a head that draws what LISA's own computation draws."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM, SamModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from command import Run
from decoders.tiny import save_sam
from seglens.checkpoints.origin import CheckpointError
from seglens.convert.lisa import SETTINGS, convert_lisa
from seglens.convert.sam import sam_names
from seglens.inference.segmenter import Segmenter
from tiny import STRONG, llava_1_5, make_processor, save_processor

D, LAYERS, SIDE, PATCH, PROMPT = 64, 3, 64, 16, 32
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. "
)
# of transformers' names: what stands for each part in facebookresearch/segment-anything, written out once more
SAM_NAMES = (
    ("vision_encoder.patch_embed.projection", "image_encoder.patch_embed.proj"),
    ("vision_encoder.neck.conv1", "image_encoder.neck.0"),
    ("vision_encoder.neck.layer_norm1", "image_encoder.neck.1"),
    ("vision_encoder.neck.conv2", "image_encoder.neck.2"),
    ("vision_encoder.neck.layer_norm2", "image_encoder.neck.3"),
    (r"vision_encoder.layers.(\d+).layer_norm(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"vision_encoder.layers.(\d+)", r"image_encoder.blocks.\1"),
    ("vision_encoder.pos_embed", "image_encoder.pos_embed"),
    (
        "prompt_encoder.shared_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    ("prompt_encoder.point_embed", "prompt_encoder.point_embeddings"),
    ("prompt_encoder.mask_embed.conv1", "prompt_encoder.mask_downscaling.0"),
    ("prompt_encoder.mask_embed.layer_norm1", "prompt_encoder.mask_downscaling.1"),
    ("prompt_encoder.mask_embed.conv2", "prompt_encoder.mask_downscaling.3"),
    ("prompt_encoder.mask_embed.layer_norm2", "prompt_encoder.mask_downscaling.4"),
    ("prompt_encoder.mask_embed.conv3", "prompt_encoder.mask_downscaling.6"),
    ("mask_decoder.transformer.layer_norm_final_attn", "mask_decoder.transformer.norm_final_attn"),
    (r"mask_decoder.transformer.layers.(\d+).layer_norm(\d)", r"mask_decoder.transformer.layers.\1.norm\2"),
    ("mask_decoder.upscale_conv1", "mask_decoder.output_upscaling.0"),
    ("mask_decoder.upscale_layer_norm", "mask_decoder.output_upscaling.1"),
    ("mask_decoder.upscale_conv2", "mask_decoder.output_upscaling.3"),
    (r"mask_decoder.(\w+).proj_out", r"mask_decoder.\1.layers.2"),
    (r"mask_decoder.(\w+).proj_in", r"mask_decoder.\1.layers.0"),
    (r"mask_decoder.(iou_prediction_head).layers.0", r"mask_decoder.\1.layers.1"),
    (r"mask_decoder.output_hypernetworks_mlps.(\d).proj_out", r"mask_decoder.output_hypernetworks_mlps.\1.layers.2"),
    (r"mask_decoder.output_hypernetworks_mlps.(\d).layers.0", r"mask_decoder.output_hypernetworks_mlps.\1.layers.1"),
    (r"mask_decoder.output_hypernetworks_mlps.(\d).proj_in", r"mask_decoder.output_hypernetworks_mlps.\1.layers.0"),
)


def in_sams_own_names(name: str) -> str:
    for ours, theirs in SAM_NAMES:
        if re.match(ours.replace(".", r"\.").replace(r"\\.", r"\."), name):
            return re.sub("^" + ours.replace(".", r"\."), theirs, name, count=1)
    return name


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is not in LISA's files: a LLaVA for the words, the CLIP that it reads, a SAM for its config."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    llava_1_5().config.save_pretrained(root / "base")
    save_processor(make_processor(), root / "base")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **STRONG,
    }
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))
    clip.save_pretrained(root / "tower")
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        root / "tower"
    )
    save_sam(root / "decoder")
    return {name: root / name for name in ("base", "tower", "decoder")}


def words_of(base: Path) -> int:
    return len(AutoTokenizer.from_pretrained(base))


@pytest.fixture(scope="module")
def source(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `merge_lora_weights_and_save_hf_model.py` leaves it, in safetensors: no vision tower; [SEG] before the two
    tokens around an image."""
    folder, dice = tmp_path_factory.mktemp("theirs") / "LISA-tiny", torch.Generator().manual_seed(1)
    folder.mkdir()
    plain = words_of(parts["base"])
    llama = LlamaForCausalLM(llama_config(plain + 3))
    tensors = {name: torch.randn(t.shape, generator=dice) * 0.1 for name, t in llama.state_dict().items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    for name, shape in {
        "model.mm_projector.weight": (D, 32),
        "model.mm_projector.bias": (D,),
        "model.text_hidden_fcs.0.0.weight": (D, D),
        "model.text_hidden_fcs.0.0.bias": (D,),
        "model.text_hidden_fcs.0.2.weight": (PROMPT, D),
        "model.text_hidden_fcs.0.2.bias": (PROMPT,),
    }.items():
        tensors[name] = torch.randn(shape, generator=dice) * 0.2
    for name, tensor in trained_sam(parts["decoder"]).items():
        if name != "shared_image_embedding.positional_embedding":
            tensors["model.visual_model." + in_sams_own_names(name)] = tensor.clone()
    tensors["model.visual_model.pixel_mean"] = torch.zeros(3, 1, 1)
    tensors["model.visual_model.pixel_std"] = torch.ones(3, 1, 1)
    for n in range(2):
        names = sorted(tensors)[n::2]
        save_file(
            {name: tensors[name].contiguous() for name in names}, folder / f"model-{n + 1:05}-of-00002.safetensors"
        )
    config = llama_config(plain + 3).to_dict()
    config |= {"rope_theta": 10000.0, "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "added_tokens.json").write_text(
        json.dumps({"[SEG]": plain, "<im_start>": plain + 1, "<im_end>": plain + 2})
    )
    return folder


def llama_config(words: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=words,
        hidden_size=D,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )


def trained_sam(decoder: Path) -> dict[str, Tensor]:
    """SAM with another mask decoder than the published one: LISA trains it."""
    dice = torch.Generator().manual_seed(2)
    state = SamModel.from_pretrained(decoder).state_dict()
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=dice) if name.startswith("mask_decoder.") else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def theirs(source: Path, parts: dict[str, Path], image: np.ndarray, question: str) -> Tensor:
    """LISA's forward, restated: LLaVA v1 reads the image between its two tokens; the state before [SEG], after the
    last norm, is projected and is SAM's one prompt. Low-resolution mask logits."""
    state = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    plain = words_of(parts["base"])
    llama = LlamaForCausalLM(llama_config(plain + 3)).eval()
    llama.load_state_dict({k: state[k] for k in llama.state_dict()})
    clip = CLIPModel.from_pretrained(parts["tower"]).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(parts["tower"])(image, return_tensors="pt").pixel_values
    states = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    features = states @ state["model.mm_projector.weight"].T + state["model.mm_projector.bias"]
    tokenizer = AutoTokenizer.from_pretrained(parts["base"])

    def embedded(text: str, special: bool = False) -> Tensor:
        return llama.model.embed_tokens(torch.tensor([tokenizer(text, add_special_tokens=special).input_ids]))

    def token(number: int) -> Tensor:
        return llama.model.embed_tokens(torch.tensor([[number]]))

    inputs = torch.cat(
        [
            embedded(f"{SYSTEM}USER: ", special=True),
            token(plain + 1),
            features,
            token(plain + 2),
            embedded(f"\n{question} ASSISTANT:"),
        ],
        1,
    )
    hidden = llama.model(inputs_embeds=inputs).last_hidden_state[:, -1:]
    fcs = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, PROMPT))
    fcs.load_state_dict(
        {f"{n}.{kind}": state[f"model.text_hidden_fcs.0.{n}.{kind}"] for n in (0, 2) for kind in ("weight", "bias")}
    )
    sam = SamModel.from_pretrained(parts["decoder"]).eval()
    sam.load_state_dict(trained_sam(parts["decoder"]))
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    pixels = SamImageProcessorPil.from_pretrained(parts["decoder"])(image, return_tensors="pt").pixel_values
    embeddings = sam.get_image_embeddings(pixels)
    dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand_as(embeddings)
    masks, *_ = sam.mask_decoder(
        image_embeddings=embeddings,
        image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
        sparse_prompt_embeddings=fcs(hidden)[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return masks[0, 0, 0]


@pytest.fixture(scope="module")
def head(source: Path, parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "head"
    convert_lisa(source, out, **parts)
    return out


def test_the_head_draws_what_lisa_draws(source: Path, parts: dict[str, Path], head: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    segmenter = Segmenter.from_pretrained(head, device="cpu", dtype="fp32")
    method: Any = segmenter.method
    query = segmenter.head_prompt.apply("the red cup")
    assert query == " What is the red cup in this image? Please output segmentation mask."
    with torch.no_grad():
        opened = segmenter.open(image)
        actual = method.decode(method.mllm.read(opened.seen, [query]), opened.embedding).mask_logits[0, 0]
    expected = theirs(source, parts, image, query)
    assert actual.shape == expected.shape
    # of the largest; measured: 5.7e-7
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_name_of_sam_has_its_place(parts: dict[str, Path]) -> None:
    names = [name for name in trained_sam(parts["decoder"])]
    own = [in_sams_own_names(name) for name in names if name != "shared_image_embedding.positional_embedding"]
    # as they stand in sam_vit_h_4b8939.pth
    assert set(own) >= {
        "image_encoder.blocks.0.norm1.weight",
        "image_encoder.neck.3.bias",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.point_embeddings.3.weight",
        "prompt_encoder.mask_downscaling.6.bias",
        "mask_decoder.transformer.norm_final_attn.weight",
        "mask_decoder.output_upscaling.1.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias",
        "mask_decoder.iou_prediction_head.layers.1.weight",
    }
    assert set(sam_names(own)) == set(names)


def test_the_config_says_that_it_cannot_refuse(head: Path) -> None:
    config = json.loads((head / "config.json").read_text())
    assert (config["method"], config["presence"]) == ("lisa", "untrained")
    assert config["prompt"]["system"] == SYSTEM.strip()
    assert config["settings"]["train_mask_decoder"] is SETTINGS.train_mask_decoder is False


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("model.mm_projector.bias", None, "missing model.multi_modal_projector.linear_1.bias"),
        ("model.text_hidden_fcs.0.0.bias", "model.text_hidden_fcs.0.9.bias", "extra model.text_hidden_fcs.0.9.bias"),
        ("model.visual_model.pixel_mean", "model.visual_model.extra", "extra model.visual_model.extra"),
    ],
)
def test_other_names_are_refused_by_name(
    source: Path, parts: dict[str, Path], tmp_path: Path, old: str, new: str | None, complaint: str
) -> None:
    state = {k: v for file in source.glob("*.safetensors") for k, v in load_file(file).items()}
    tensor = state.pop(old)
    if new is not None:
        state[new] = tensor
    (tmp_path / "theirs").mkdir()
    save_file(state, tmp_path / "theirs/model.safetensors")
    for name in ("config.json", "added_tokens.json"):
        (tmp_path / "theirs" / name).write_text((source / name).read_text())
    with pytest.raises(CheckpointError, match=re.escape(complaint)):
        convert_lisa(tmp_path / "theirs", tmp_path / "head", **parts)
    assert not (tmp_path / "head").exists()


def test_a_tokenizer_without_seg_is_refused(source: Path, parts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"numbers no \[SEG\], <im_start>, <im_end>"):
        convert_lisa(folder, tmp_path / "head", **parts)


def test_the_command(source: Path, parts: dict[str, Path], tmp_path: Path, seglens: Run) -> None:
    options: list[Any] = [f"--{name}={path}" for name, path in parts.items()]
    report = json.loads(seglens("convert", "lisa", source, tmp_path / "head", *options, "--json")[1])
    assert report["folder"] == str(tmp_path / "head")
    assert Segmenter.from_pretrained(tmp_path / "head", device="cpu").config.method == "lisa"
