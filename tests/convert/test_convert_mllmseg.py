"""MLLMSeg's checkpoints, under their own names, become an InternVL that writes the same and the same decoder."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlamaConfig

from authors_words import CONVERSATIONS
from command import Run
from convert import their_files
from convert.their_files import SIZES, Size
from seglens.backbones import load_backbone
from seglens.backbones.internvl_spec import Skeleton
from seglens.checkpoints.origin import CheckpointError
from seglens.convert import weights as weights_module
from seglens.convert.internvl import mllm_pieces
from seglens.convert.mllmseg import POINTS, convert_mllmseg
from seglens.convert.weights import refuse_misfit
from seglens.inference.segmenter import Segmenter
from seglens.methods.light_decoder import LightDecoder
from seglens.methods.mllmseg import PRESETS, MLLMSegConfig
from tiny import STRONG, internvl, internvl_processor, internvl_tokenizer, save_processor

TINY = replace(PRESETS["authors"].config, width=32, heads=4, feed_forward=48, groups=2, subpixels=4)


def internlm() -> Any:
    """An InternVL whose language model is a LLaMA, as transformers has those with InternLM2."""
    converted, tokenizer = internvl(), internvl_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        **STRONG,
    )
    return InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=converted.config.vision_config,
            text_config=text,
            image_seq_length=16,
            image_token_id=tokenizer.context_image_token_id,
            tie_word_embeddings=False,
        )
    )


@pytest.fixture(scope="module", params=["qwen", "internlm"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL in transformers' own form: the base model, and the truth about what is converted."""
    folder = tmp_path_factory.mktemp(request.param) / f"{request.param}-hf"
    torch.manual_seed(0)
    model = internlm() if request.param == "internlm" else internvl()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    save_processor(internvl_processor(), folder)
    return folder


def tiny_size(base: Path) -> Size:
    text = json.loads((base / "config.json").read_text())["text_config"]
    tokenizer = internvl_tokenizer()
    image = tokenizer.context_image_token_id
    return Size(64, 6, 4, 2, 160, len(tokenizer), text["model_type"] == "llama", image)


def config_for(size: Size) -> dict[str, Any]:
    converted = their_files.config_of(size)
    theta = converted["llm_config"]["rope_theta"] if size.internlm else 10000.0
    converted["llm_config"].update(rope_theta=theta)
    converted["vision_config"] = {"num_attention_heads": 2, "layer_norm_eps": 1e-6, "image_size": 64}
    return converted


def as_published(theirs: dict[str, Tensor], size: Size, layers: int = 2) -> dict[str, Tensor]:
    """The base model's own tensors under the names of InternVL's own code; attention packed head by head."""
    left, converted = dict(theirs), dict[str, Tensor]()

    def take(name: str) -> Tensor:
        return left.pop(name)

    for kind in ("weight", "bias"):
        at = "vision_tower.embeddings.patch_embeddings.projection"
        converted[f"vision_model.embeddings.patch_embedding.{kind}"] = take(f"{at}.{kind}")
        for n, name in ((0, "layer_norm"), (1, "linear_1"), (3, "linear_2")):
            converted[f"mlp1.{n}.{kind}"] = take(f"multi_modal_projector.{name}.{kind}")
    converted["vision_model.embeddings.class_embedding"] = take("vision_tower.embeddings.cls_token")
    converted["vision_model.embeddings.position_embedding"] = take("vision_tower.embeddings.position_embeddings")
    for n in range(layers):
        old, new = f"vision_tower.encoder.layer.{n}.", f"vision_model.encoder.layers.{n}."
        for kind in ("weight", "bias"):
            parts = [take(f"{old}attention.{part}_proj.{kind}") for part in "qkv"]
            converted[f"{new}attn.qkv.{kind}"] = torch.cat(parts)
            converted[f"{new}attn.proj.{kind}"] = take(f"{old}attention.projection_layer.{kind}")
            converted[f"{new}norm1.{kind}"] = take(f"{old}layernorm_before.{kind}")
            converted[f"{new}norm2.{kind}"] = take(f"{old}layernorm_after.{kind}")
            for fc in ("fc1", "fc2"):
                converted[f"{new}mlp.{fc}.{kind}"] = take(f"{old}mlp.{fc}.{kind}")
        for k in (1, 2):
            converted[f"{new}ls{k}"] = take(f"{old}lambda_{k}")
    if not size.internlm:
        return converted | left
    start, head = "language_model.model.", size.d // size.heads
    converted["language_model.output.weight"] = take("language_model.lm_head.weight")
    converted[f"{start}tok_embeddings.weight"] = take(f"{start}embed_tokens.weight")
    converted[f"{start}norm.weight"] = take(f"{start}norm.weight")
    for n in range(size.layers):
        at = f"{start}layers.{n}."
        q, k, v = (take(f"{at}self_attn.{part}_proj.weight").split(head) for part in "qkv")
        share, packed = size.heads // size.keys, list[Tensor]()
        for key in range(size.keys):
            packed += [*q[key * share : (key + 1) * share], k[key], v[key]]
        converted[f"{at}attention.wqkv.weight"] = torch.cat(packed)
        converted[f"{at}attention.wo.weight"] = take(f"{at}self_attn.o_proj.weight")
        for number, name in (("1", "gate"), ("2", "down"), ("3", "up")):
            converted[f"{at}feed_forward.w{number}.weight"] = take(f"{at}mlp.{name}_proj.weight")
        converted[f"{at}attention_norm.weight"] = take(f"{at}input_layernorm.weight")
        converted[f"{at}ffn_norm.weight"] = take(f"{at}post_attention_layernorm.weight")
    assert not left
    return converted


def checkpoint(base: Path) -> tuple[dict[str, Tensor], Size]:
    """All tensors of a published checkpoint: the base model, two more words and a decoder."""
    size, dice = tiny_size(base), torch.Generator().manual_seed(1)
    tensors = as_published(load_file(base / "model.safetensors"), size)
    for name, tensor in tensors.items():
        if tensor.shape[0] == size.words and tensor.ndim == 2:
            tensors[name] = torch.cat([tensor, torch.randn(2, size.d, generator=dice)])
    for name, shape in their_files.decoder_shapes(64, 32, 48, 2, 4).items():
        tensors[name] = torch.randn(shape, generator=dice)
    tensors["res_decoder.upsample_adapter_l.init_pos"] = their_files.points(2)
    tensors["res_decoder.conv1.1.running_var"] = torch.rand(16, generator=dice) + 0.5
    tensors["res_decoder.conv1.1.num_batches_tracked"] = torch.tensor(7)
    return tensors, size


@pytest.fixture
def source(base: Path, tmp_path: Path) -> Path:
    tensors, size = checkpoint(base)
    their_files.save(tmp_path / "theirs", tensors, config_for(size), size)
    return tmp_path / "theirs"


@torch.no_grad()
def answers(folder: Path) -> Tensor:
    model = InternVLForConditionalGeneration.from_pretrained(folder).eval()
    dice, image = torch.Generator().manual_seed(0), model.config.image_token_id
    ids = torch.tensor([[5, 6, *[image] * 16, 7, 8, 9]])
    return model(input_ids=ids, pixel_values=torch.randn(1, 3, 64, 64, generator=dice)).logits


# ---------------------------------------------------------------- the whole


def test_the_same_mllm_and_the_same_decoder(base: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    converted = convert_mllmseg(source, out, base, settings=TINY)
    assert torch.equal(answers(out / "mllm"), answers(base))
    assert load_backbone(out / "mllm").width == 64  # strict: nothing missing, nothing left over
    tensors, size = checkpoint(base)
    state = load_file(out / "head.safetensors")
    decoder = LightDecoder(TINY, 64, 32, 2)
    decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    assert converted.decoder_parameters == sum(p.numel() for p in decoder.parameters())
    assert converted.mllm_tensors == len(load_file(base / "model.safetensors"))
    rows = {name: value for name, value in state.items() if not name.startswith("decoder.")}
    words, output = ("tok_embeddings", "output") if size.internlm else ("embed_tokens", "lm_head")
    assert rows.keys() == {"adapter.words.new_input", "adapter.words.new_output"}
    theirs = tensors[f"language_model.model.{words}.weight"], tensors[f"language_model.{output}.weight"]
    assert [torch.equal(row, whole[-2:-1]) for row, whole in zip(rows.values(), theirs, strict=True)] == [True, True]


def test_the_decoder_draws_as_theirs(base: Path, source: Path, tmp_path: Path) -> None:
    """Their decoder's forward pass from the checkpoint's own names, with torch's decoder layers."""
    convert_mllmseg(source, tmp_path / "head", base, settings=TINY)
    state = load_file(tmp_path / "head" / "head.safetensors")
    ours = LightDecoder(TINY, 64, 32, 2).eval()
    ours.load_state_dict({k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")})
    tensors, _ = checkpoint(base)
    theirs = {k.removeprefix("res_decoder."): v for k, v in tensors.items() if k.startswith("res_decoder.")}
    patches, image, segment = torch.randn(1, 64, 32), torch.randn(1, 16, 64), torch.randn(1, 1, 64)
    with torch.no_grad():
        actual = ours(ours.precompute(patches, image[:, None], (4, 4)), segment[:, None], 8)[0]
        expected = drawn_by(theirs, patches, image, segment)
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()  # measured: 1.1e-6


def drawn_by(state: dict[str, Tensor], patches: Tensor, image: Tensor, segment: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def block(name: str, x: Tensor, memory: Tensor) -> Tensor:
        layer = torch.nn.TransformerDecoderLayer(32, 4, 48, 0.1, batch_first=True)
        converted = torch.nn.TransformerDecoder(layer, 1, torch.nn.LayerNorm(32)).eval()
        start = f"{name}.decoder."
        converted.load_state_dict({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
        return converted(x, memory)

    image, segment = linear("img_llm_down", image), linear("text_down", segment)
    coarse = image.transpose(1, 2).reshape(1, 32, 4, 4)
    offset = torch.nn.functional.conv2d(
        coarse, state["upsample_adapter_l.offset.weight"], state["upsample_adapter_l.offset.bias"]
    )
    moved = (0.25 * offset + state["upsample_adapter_l.init_pos"]).reshape(1, 2, 2, 4, 4, 4)  # xy, group, part, h, w
    fine = torch.zeros(1, 32, 8, 8)
    for group in range(2):
        for part in range(4):
            x, y = (moved[0, axis, group, part] for axis in (0, 1))
            at = torch.stack(
                [2 * (x + torch.arange(4) + 0.5) / 4 - 1, 2 * (y + torch.arange(4)[:, None] + 0.5) / 4 - 1], -1
            )
            read = torch.nn.functional.grid_sample(
                coarse[:, 16 * group : 16 * group + 16], at[None], padding_mode="border", align_corners=False
            )
            fine[:, 16 * group : 16 * group + 16, part // 2 :: 2, part % 2 :: 2] = read
    enhanced = block("ca_layer_v2l", patches, image)
    fused = linear("text_out_adapter", torch.cat([enhanced, patches, fine.flatten(2).transpose(1, 2)], -1))
    x = block("ca_layer_vl", fused, segment).transpose(1, 2).reshape(1, 32, 8, 8)
    x = torch.nn.functional.conv2d(x, state["conv1.0.weight"], state["conv1.0.bias"], padding=1)
    norm = [state[f"conv1.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    x = torch.nn.functional.batch_norm(x, *norm).relu()
    x = x.permute(0, 2, 3, 1).reshape(-1, 8, 8, 4, 4).permute(0, 1, 3, 2, 4).reshape(-1, 1, 32, 32)
    return torch.nn.functional.conv2d(x, state["conv2.weight"], state["conv2.bias"], padding=2)[:, 0]


def test_the_head_says_what_the_checkpoint_says(base: Path, source: Path, tmp_path: Path) -> None:
    """From a picture and words to mask logits: as SegLens loads and runs it, and by transformers with the authors'
    words, states (each one token early) and decoder."""
    convert_mllmseg(source, tmp_path / "head", base, refuses=True, settings=TINY)
    segmenter = Segmenter.from_pretrained(tmp_path / "head", dtype=torch.float32)
    method: Any = segmenter.method
    query = segmenter.head_prompt.apply(
        "The red cup.", "phrase"
    )  # which its authors ask in lower case, without full stops
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    read = method.mllm.read(method.mllm.open(picture), [query])
    tensors, size = checkpoint(base)
    model = InternVLForConditionalGeneration.from_pretrained(base).eval()
    model.resize_token_embeddings(size.words + 2, mean_resizing=False)
    words, output = ("tok_embeddings", "output") if size.internlm else ("embed_tokens", "lm_head")
    model.get_input_embeddings().weight.data.copy_(tensors[f"language_model.model.{words}.weight"])
    model.lm_head.weight.data.copy_(tensors[f"language_model.{output}.weight"])
    prompts, question_tokens = method.mllm.answer_tokens.prompts, method.mllm.answer_tokens.question(query)
    message = prompts.processor.tokenizer.decode(question_tokens.ids[:-1])
    assert " What are the red cupin this image? Please output segmentation masks.<|im_end|>" in message
    assert message.endswith("assistant\nSure,the red cup:")
    before = prompts.before()
    theirs = next(one.theirs for one in CONVERSATIONS if one.method == "mllmseg")
    notes = theirs[: theirs.index("<IMG_CONTEXT>")]
    assert before == prompts.processor.tokenizer(notes).input_ids
    ids = torch.tensor([[*before, *[size.image_token] * 16, *question_tokens.ids]])
    first, seg = len(before), ids.shape[1] - 1
    assert ids[0, seg] == size.words
    with torch.no_grad():
        pixels = method.mllm.pixels(picture)[None]
        said_by = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
        states, patches = said_by.hidden_states[-1], model.model.vision_tower(pixels).last_hidden_state[:, 1:]
        theirs = {k.removeprefix("res_decoder."): v for k, v in tensors.items() if k.startswith("res_decoder.")}
        expected = drawn_by(theirs, patches, states[:, first - 1 : first + 15], states[:, seg - 1 : seg])
        actual = method.decode(read, None)
    # of the largest; measured: 1.0e-6
    assert (actual.mask_logits[0] - expected).abs().max() < 1e-5 * expected.abs().max()
    logits = said_by.logits[0, seg - 1]
    presence = logits[:-1].max() - logits[-1]
    assert actual.presence_logits.item() == pytest.approx(presence.item(), abs=1e-4)


def test_the_heads_config(base: Path, source: Path, tmp_path: Path) -> None:
    for refuses in (False, True):
        out = tmp_path / f"head{refuses}"
        convert_mllmseg(source, out, base, refuses, TINY)
        config = json.loads((out / "config.json").read_text())
        expected = replace(TINY, rank=0, vocabulary=False, final_norm=False, refusal=TINY.refusal if refuses else None)
        assert config["method"] == "mllmseg"
        assert config["settings"] == json.loads(json.dumps(asdict(expected)))
        assert config["backbone"] == {"name": "./mllm", "revision": None}
        assert (config["layer"], config["decoder"]) == (None, None)
        trained = {"lay": "squash", "resample": "processor", "padding": "mean", "tiles": None}
        assert config["canvas"] == trained
        rows = load_file(out / "head.safetensors")["adapter.words.new_input"]
        assert rows.shape == (len(expected.tokens), 64)
        assert not list((out / "mllm").glob("*.py"))
    mllm = json.loads((out / "mllm" / "config.json").read_text())
    assert mllm["tie_word_embeddings"] is mllm["text_config"]["tie_word_embeddings"] is False


def test_updates_that_were_not_added_are_added(base: Path, tmp_path: Path) -> None:
    """As training leaves it: peft's names around the language model, W + 2 B A."""
    tensors, size = checkpoint(base)
    dice, wrapped, merged = torch.Generator().manual_seed(2), dict[str, Tensor](), dict(tensors)
    adapted = (
        "wqkv",
        "wo",
        "w1",
        "w2",
        "w3",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    for name, tensor in tensors.items():
        inner = name.replace("language_model.", "language_model.base_model.model.", 1)
        part, _, kind = inner.rpartition(".")
        if not name.startswith("language_model.model.layers.") or part.rpartition(".")[2] not in adapted:
            wrapped[inner] = tensor
            continue
        wrapped[f"{part}.base_layer.{kind}"] = tensor
        if kind == "weight":
            a, b = torch.randn(4, tensor.shape[1], generator=dice), torch.randn(tensor.shape[0], 4, generator=dice)
            wrapped |= {f"{part}.lora_A.default.weight": a, f"{part}.lora_B.default.weight": 0.01 * b}
            merged[name] = tensor + 2 * (0.01 * b) @ a
    config = config_for(size)
    their_files.save(tmp_path / "added", merged, config, size)
    their_files.save(tmp_path / "apart", wrapped, {**config, "use_llm_lora": 4}, size, shards=1)
    one = convert_mllmseg(tmp_path / "added", tmp_path / "a", base, settings=TINY)
    other = convert_mllmseg(tmp_path / "apart", tmp_path / "b", base, settings=TINY)
    assert (one.updates_added, other.updates_added) == (0, (5 if size.internlm else 7) * size.layers)
    whole, parts = (load_file(tmp_path / name / "mllm" / "model.safetensors") for name in "ab")
    assert whole.keys() == parts.keys()
    assert max((whole[name] - parts[name]).abs().max().item() for name in whole) < 1e-6
    assert not torch.equal(answers(tmp_path / "b" / "mllm"), answers(base))
    their_files.save(tmp_path / "torn", wrapped, config, size)
    with pytest.raises(CheckpointError, match=r"updates of rank 0, and the weights hold those of rank \[4\]"):
        convert_mllmseg(tmp_path / "torn", tmp_path / "c", base, settings=TINY)
    wrapped.pop(next(name for name in wrapped if "lora_B" in name))
    their_files.save(tmp_path / "half", wrapped, {**config, "use_llm_lora": 4}, size)
    with pytest.raises(CheckpointError, match="holds a part of the low-rank update of"):
        convert_mllmseg(tmp_path / "half", tmp_path / "c", base, settings=TINY)


def test_large_models_come_in_shards(base: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SHARD", 200_000)
    convert_mllmseg(source, tmp_path / "head", base, settings=TINY)
    folder = tmp_path / "head" / "mllm"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in load_file(base / "model.safetensors").values())
    assert torch.equal(answers(folder), answers(base))


def test_half_precision_stays(base: Path, tmp_path: Path) -> None:
    tensors, size = checkpoint(base)
    halves = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    their_files.save(tmp_path / "theirs", halves, config_for(size), size)
    convert_mllmseg(tmp_path / "theirs", tmp_path / "head", base, settings=TINY)
    mllm = load_file(tmp_path / "head" / "mllm" / "model.safetensors")
    assert {tensor.dtype for tensor in mllm.values()} == {torch.bfloat16}
    assert torch.equal(mllm["vision_tower.embeddings.cls_token"], halves["vision_model.embeddings.class_embedding"])


# ---------------------------------------------------------------- sizes of the real ones


def hf_config(size: Size) -> dict[str, Any]:
    """The config of such an InternVL in transformers' own form."""
    rope = {
        "rope_theta": 1000000.0,
        **({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}} if size.internlm else {}),
    }
    text = {
        "model_type": "llama" if size.internlm else "qwen2",
        "hidden_size": size.d,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.keys,
        "rms_norm_eps": 1e-6,
        "vocab_size": size.words,
        "max_position_embeddings": 32768,
        **rope,
    }
    return {
        "model_type": "internvl",
        "image_token_id": size.image_token,
        "text_config": text,
        "vision_config": {"model_type": "internvl_vision", "attention_bias": True},
    }


@pytest.mark.parametrize("name", SIZES)
def test_every_tensor_of_the_real_sizes_has_its_place(name: str, tmp_path: Path) -> None:
    """Names and shapes of InternVL2.5-1B, -2B, -4B and -8B, without a weight."""
    size = SIZES[name]
    (tmp_path / "config.json").write_text(json.dumps(hf_config(size)))
    skeleton = Skeleton.draw(tmp_path)
    theirs = {
        **their_files.vision_shapes(),
        **their_files.projector_shapes(size.d),
        **their_files.language_shapes(size),
    }
    count = sum(torch.Size(shape).numel() for shape in theirs.values()) - 4 * size.d
    pieces = mllm_pieces(theirs, skeleton)
    for words in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        pieces[words] = replace(pieces[words], shape=(size.words, size.d))
    refuse_misfit(pieces, skeleton.shapes, tmp_path)
    assert sum(torch.Size(shape).numel() for shape in skeleton.shapes.values()) == count
    assert {"1B": 0.94, "2B": 2.2, "4B": 3.7, "8B": 8.1}[name] == pytest.approx(count / 1e9, abs=0.05)
    config = their_files.config_of(size)
    assert skeleton.facts["llm_config.rope_scaling"] == (("dynamic", 2.0) if size.internlm else None)
    assert skeleton.facts["vision_config.image_size"] == config["vision_config"]["image_size"]


# ---------------------------------------------------------------- refused


def refused(source: Path, tmp_path: Path, base: Path, settings: MLLMSegConfig = TINY) -> str:
    """In one line, with nothing left behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError) as caught:
        convert_mllmseg(source, tmp_path / "made", base, settings=settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(base: Path, folder: Path, **changes: Tensor | None) -> Path:
    """The checkpoint with tensors changed, added or (None) left out."""
    tensors, size = checkpoint(base)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    their_files.save(folder, tensors, config_for(size), size)
    return folder


def test_tensors_that_do_not_fit_are_named(base: Path, tmp_path: Path) -> None:
    for n, (change, message) in enumerate(
        [
            ({"mlp1.3.bias": None}, "missing multi_modal_projector.linear_2.bias"),
            ({"mlp1.7.bias": torch.zeros(3)}, "extra mlp1.7.bias"),
            (
                {"mlp1.3.bias": torch.zeros(3)},
                "mlp1.3.bias makes multi_modal_projector.linear_2.bias (3,), needs (64,)",
            ),
            ({"vision_model.encoder.layers.1.attn.qkv.bias": None}, "layer.1.attention.k_proj.bias"),
            ({"res_decoder.text_down.bias": None}, "missing segment.bias"),
            ({"res_decoder.text_up.bias": torch.zeros(3)}, "extra res_decoder.text_up.bias"),
            (
                {"res_decoder.conv2.bias": torch.zeros(3)},
                "res_decoder.conv2.bias makes head.smooth.bias (3,), needs (1,)",
            ),
            ({"res_decoder.ca_layer_vl.decoder.norm.bias": None}, "missing condition.norms.3.bias"),
            (
                {"res_decoder.upsample_adapter_l.init_pos": torch.zeros(1, 16, 1, 1)},
                "holds other points than DySample's",
            ),
        ]
    ):
        assert message in refused(changed(base, tmp_path / str(n), **change), tmp_path, base), message


def test_another_model_is_refused(base: Path, source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    for change, message in (
        ({"select_layer": -4}, "has select_layer=-4, and the base model has -1"),
        ({"ps_version": "v1"}, "has ps_version='v1'"),
        ({"llm_config": {**config["llm_config"], "rope_theta": 5.0}}, "has llm_config.rope_theta=5.0"),
        ({"llm_config": {**config["llm_config"], "num_attention_heads": 8}}, "llm_config.num_attention_heads=8"),
        (
            {"llm_config": {**config["llm_config"], "rope_scaling": {"type": "linear", "factor": 3.0}}},
            "('linear', 3.0)",
        ),
        ({"llm_config": None}, "has llm_config.num_attention_heads=None"),
    ):
        (source / "config.json").write_text(json.dumps({**config, **change}))
        assert message in refused(source, tmp_path, base)


def test_new_words_must_be_the_two_last(base: Path, source: Path, tmp_path: Path) -> None:
    added = json.loads((source / "added_tokens.json").read_text())
    first = added["[SEG]"]
    for change, message in (
        (
            {"[SEG]": first + 1, "[REJ]": first},
            f"numbers [SEG] {first + 1}, and with this base model it must be {first}",
        ),
        ({"<IMG_CONTEXT>": 3}, "numbers <IMG_CONTEXT> 3"),
    ):
        (source / "added_tokens.json").write_text(json.dumps({**added, **change}))
        assert message in refused(source, tmp_path, base)
    (source / "added_tokens.json").unlink()
    assert "needs added_tokens.json or tokenizer_config.json" in refused(source, tmp_path, base)
    decoder = {str(number): {"content": token} for token, number in added.items()}
    (source / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    convert_mllmseg(source, tmp_path / "head", base, settings=TINY)
    tensors, size = checkpoint(base)
    name = "language_model.output.weight" if size.internlm else "language_model.lm_head.weight"
    longer = changed(base, tmp_path / "longer", **{name: torch.cat([tensors[name]] * 2)})
    assert f"has {2 * first + 4} words in {name}" in refused(longer, tmp_path, base)


def test_files_that_cannot_be_read(base: Path, source: Path, tmp_path: Path) -> None:
    file = source / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is damaged or cut short" in refused(source, tmp_path, base)
    file.unlink()
    assert "missing " in refused(source, tmp_path, base)
    other = source / "model-00002-of-00002.safetensors"
    shutil.copy(other, file)
    assert "in more than one file" in refused(source, tmp_path, base)
    for path in (file, other):
        path.unlink()
    assert "holds no .safetensors file; give the folder" in refused(source, tmp_path, base)
    (source / "config.json").write_text("{")
    assert "is not JSON" in refused(source, tmp_path, base)
    (source / "config.json").unlink()
    assert "config.json is needed" in refused(source, tmp_path, base)


def test_pickled_weights_are_refused_with_the_command_that_repacks_them(
    base: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, _ = checkpoint(base)
    for path in source.glob("*.safetensors"):
        path.unlink()
    torch.save(tensors, source / "pytorch_model.bin")
    message = refused(source, tmp_path, base)
    assert "only pytorch_model.bin, and pickled weights are not read" in message
    monkeypatch.chdir(source)
    exec(message.partition('python -c "')[2].rstrip('"'), {})
    convert_mllmseg(source, tmp_path / "head", base, settings=TINY)


def test_nothing_is_overwritten(base: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    convert_mllmseg(source, tmp_path / "head", base, settings=TINY)  # an empty folder may be filled
    with pytest.raises(FileExistsError, match="exists already"):
        convert_mllmseg(source, tmp_path / "head", base, settings=TINY)


def test_a_failure_half_way_leaves_nothing(
    base: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_module, "save_file", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        convert_mllmseg(source, tmp_path / "head", base, settings=TINY)
    assert sorted(tmp_path.iterdir()) == before


def test_the_base_must_be_an_internvl(source: Path, tmp_path: Path, llava: Path) -> None:
    with pytest.raises(ValueError, match="is a 'llava' model; give an InternVL in transformers' own form"):
        convert_mllmseg(source, tmp_path / "head", llava, settings=TINY)


# ---------------------------------------------------------------- the command


def test_command(tmp_path: Path, seglens: Run) -> None:
    """With the widths of the published decoder and tower."""
    base, source, out = tmp_path / "wide-hf", tmp_path / "theirs", tmp_path / "head"
    model = internvl()
    vision = {**model.config.vision_config.to_dict(), "hidden_size": 1024, "num_hidden_layers": 1}
    text = {**model.config.text_config.to_dict(), "num_hidden_layers": 6}
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_seq_length=16,
        image_token_id=model.config.image_token_id,
        tie_word_embeddings=False,
    )
    InternVLForConditionalGeneration(config).bfloat16().save_pretrained(base)
    save_processor(internvl_processor(), base)
    size = tiny_size(base)
    tensors = as_published(load_file(base / "model.safetensors"), size, 1)
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:2]])
    for name, shape in their_files.decoder_shapes(64).items():
        tensors[name] = torch.zeros(shape, dtype=torch.bfloat16)
    tensors[POINTS] = their_files.points(4)
    their_files.save(source, tensors, config_for(size), size)
    code, message, notes = seglens("convert", "mllmseg", source, out, "--base", base)
    assert code == 0, notes
    count = len(load_file(base / "model.safetensors"))
    assert message.startswith(f"{out}: {count} tensors of the MLLM (0 with an update added), a decoder of 26.1 M")
    assert "padded" not in notes  # they are squashed, as its authors do
    code, _, notes = seglens("convert", "mllmseg", source, out, "--base", base)
    assert (code, "exists already" in notes) == (2, True)
    code, message, _ = seglens("convert", "mllmseg", source, tmp_path / "other", "--base", base, "--gres", "--json")
    assert json.loads(message)["decoder_parameters"] == 34_385_542 - 2 * 1024 * (
        4096 - 64
    )  # the 8B's, with narrower states
    assert json.loads((tmp_path / "other" / "config.json").read_text())["settings"]["refusal"] == "Sure,{}:[REJ]."
    code, _, notes = seglens("convert", "mllmseg", source, tmp_path / "none", "--base", tmp_path / "nowhere")
    assert (code, "need a folder, or a hub id" in notes) == (2, True)
