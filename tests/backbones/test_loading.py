"""A model on disk is loaded whole and as its config states, or refused in one line that states why."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from seglens.backbones import FAMILIES, Backbone, load_backbone
from seglens.backbones.families import UNREADABLE, family_of
from seglens.checkpoints.origin import CheckpointError, Origin
from seglens.core.tuning_types import AnswerTemplates, Tuning
from seglens.decoders import load_decoder
from seglens.inference.frozen_models import Parts, place_backbone
from seglens.inference.segmenter import Segmenter
from seglens.model_files.strict_loading import reaching
from tiny import FROZEN, KINDS, by_speed


def refused(folder: Path, message: str, **how: Any) -> str:
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(folder, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def damaged(llava: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llava, tmp_path / "model")


@pytest.fixture
def copy(family: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged, of each kind in turn."""
    return shutil.copytree(family, tmp_path / family.name)


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of the config; a dict changes entries of an entry."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    (folder / "config.json").write_text(json.dumps(config))


# ------------------------------------------------------------------ options


def test_the_old_name_of_dtype_works(llava: Path) -> None:
    """Wherever options of loading are taken; transformers prefers our default to it."""
    for backbone in (
        load_backbone(llava, torch_dtype=torch.bfloat16),
        place_backbone(Origin(str(llava)), device="cpu", torch_dtype="bfloat16"),
        Segmenter.from_pretrained(device="cpu", torch_dtype=torch.bfloat16).backbone,
    ):
        assert backbone.module.dtype == torch.bfloat16
    assert load_backbone(llava, torch_dtype=torch.float32, dtype="float32").module.dtype == torch.float32
    refused(
        llava,
        r"got dtype=torch\.float32 and torch_dtype=torch\.float16, two names",
        dtype=torch.float32,
        torch_dtype=torch.float16,
    )


@pytest.mark.parametrize(
    "name", ["low_cpu_mem_usage", "load_in_8bit", "atn_implementation", "trust_remote_code", "subfolder"]
)
def test_an_unknown_option_is_refused_by_name(name: str, llava: Path, sam: Path) -> None:
    message = f"there is no option of loading a model '{name}'; choose from dtype, device_map"
    refused(llava, message, **{name: True})
    with pytest.raises(ValueError, match=message):
        load_decoder(sam, **{name: True})
    with pytest.raises(ValueError, match=f"{message.partition(';')[0]}; choose from device, dtype"):
        Segmenter.from_pretrained(device="cpu", **{name: True})


def test_options_of_the_hub_reach_every_download(
    llava: Path, sam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`local_files_only` keeps the head and the mask decoder off the network, too."""
    downloads: list[dict[str, Any]] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **how: downloads.append(how) or str(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        Segmenter.from_pretrained("nobody/nothing", local_files_only=True, token="t", dtype=torch.float32)
    assert {key: downloads[0][key] for key in ("local_files_only", "token")} == {"local_files_only": True, "token": "t"}
    parts = Parts.load(Origin(str(llava)), Origin(str(sam)), device="cpu", local_files_only=True)
    assert parts.decoder is not None


# ------------------------------------------------------------------ an adapter beside the weights


def test_an_adapter_beside_weights_is_refused(copy: Path) -> None:
    """With peft installed, transformers would lay it over weights that may have it merged in; without, leave it."""
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(
        copy, "holds an adapter .* beside weights, and nothing shows whether it is merged into them; if it is, move"
    )
    (copy / "model.safetensors").unlink()
    refused(copy, "holds an adapter .* and no model; load the model, merge the adapter")


def test_an_adapter_beside_a_mask_decoder_is_refused(sam: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sam, tmp_path / "sam")
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter"):
        load_decoder(copy)


def test_two_sets_of_weights_are_refused(damaged: Path) -> None:
    (damaged / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {}}')
    refused(damaged, r"holds both model\.safetensors and model\.safetensors\.index\.json with its parts; remove")


# ------------------------------------------------------------------ weights


def rewrite(folder: Path, change: str) -> str:
    """Damage the weights, and return what the error must name."""
    file = folder / "model.safetensors"
    state = load_file(file)
    key = next(k for k in state if k.endswith(("layers.1.mlp.down_proj.weight", "layers.1.feed_forward.w2.weight")))
    if change == "missing":
        del state[key]
    elif change == "extra":
        key = key.replace("layers.1.", "layers.1.bogus.")
        state[key] = torch.zeros(3)
    elif change == "beyond":  # a layer that the config does not have
        key = key.replace("layers.1.", "layers.9.")
        state[key] = torch.zeros(3)
    elif change == "reshaped":
        state[key] = state[key].T.contiguous()
    save_file(state, file, metadata={"format": "pt"})
    return key[key.index("layers.") :]


@pytest.mark.parametrize("segmentation_only", [False, True])
@pytest.mark.parametrize("change", ["missing", "extra", "beyond", "reshaped"])
def test_weights_that_do_not_fit_are_refused(copy: Path, change: str, segmentation_only: bool) -> None:
    named = rewrite(copy, change)
    how = KINDS[copy.name].options
    refused(copy, f"do not fit their config.*{named}", segmentation_only=segmentation_only, **how)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_cut_weights_are_refused(damaged: Path, share: float) -> None:
    file = damaged / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert str(damaged) in refused(damaged, "cut short or damaged")


def test_pickles_are_refused(damaged: Path) -> None:
    state = load_file(damaged / "model.safetensors")
    (damaged / "model.safetensors").unlink()
    torch.save(state, damaged / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        load_backbone(damaged)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ depth


@pytest.mark.parametrize("layer", [0, -1, 7, 8, 100])
def test_layers_out_of_reach(llava: Path, layer: int) -> None:
    refused(llava, "choose 1 to 6", layer=layer)


def test_layers_below_deepstack(tmp_path: Path) -> None:
    """After the first layers Qwen3-VL adds what no copy of them could know."""
    KINDS["qwen3-vl"].save(tmp_path)
    refused(tmp_path, "layer 1 cannot be read.*choose 2 to 4", layer=1)
    assert load_backbone(tmp_path, layer=2, image_size=40).layer == 2


def test_default_depths(tmp_path: Path) -> None:
    """LENS reads LLaVA-1.5 at 14 of 32, its authors Qwen2-VL at 20 of 28; where no layer was measured, half."""
    for name, layer in {"llava-1.5": round(8 * 14 / 32), "qwen2-vl": round(6 * 20 / 28), "qwen2.5-vl": 3}.items():
        KINDS[name].save(tmp_path / name)
        assert load_backbone(tmp_path / name).layer == layer


def test_windows_of_attention_are_refused(tmp_path: Path) -> None:
    """Only where they would be run: the layers up to those that a head copies."""
    KINDS["internvl"].save(tmp_path)
    kinds = ["full_attention"] * 4 + ["sliding_attention"] * 2
    edit(tmp_path, text_config={"use_sliding_window": True, "sliding_window": 16, "layer_types": kinds})
    refused(tmp_path, "decoder layer 4 has sliding_attention.*up to 4 must see all", layer=3)
    assert load_backbone(tmp_path, layer=2).layer == 2


# ------------------------------------------------------------------ options


def test_a_canvas_of_any_whole_number_of_cells(tmp_path: Path) -> None:
    KINDS["qwen2.5-vl"].save(tmp_path)
    for size in (0, -8, 7, 44, 1001):
        refused(tmp_path, f"image_size={size} is no whole number of cells of 8 pixels; try \\d+", image_size=size)
    assert "try 8," in refused(tmp_path, "image_size", image_size=1)
    for size, cells in ((8, 1), (48, 6), (None, 24)):
        backbone = load_backbone(tmp_path, image_size=size)
        assert (backbone.grid, backbone.image_size) == ((cells, cells), 8 * cells)


def test_a_fixed_canvas(llava: Path, backbone: Backbone) -> None:
    refused(llava, "image_size=336 cannot be had: a 'llava' model sees its images at 84 pixels", image_size=336)
    assert load_backbone(llava, image_size=84).grid == backbone.grid


def test_attention_that_takes_no_mask(llava: Path) -> None:
    refused(llava, "'flex_attention' takes no attention mask.*eager or sdpa", attn_implementation="flex_attention")


@pytest.mark.parametrize(
    ("old", "new"),
    [("<image>\n", ""), ("USER: ", "{{ message['content'][-1]['text'] }}"), ("<image>", "<image><image>")],
)
def test_templates_that_do_not_put_the_image_first(damaged: Path, old: str, new: str) -> None:
    file = damaged / "chat_template.jinja"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    refused(damaged, "does not put one image before the question")


@pytest.mark.parametrize(
    ("family", "near"), [("llava_llama", "llava"), ("internvl_chat", "internvl"), ("unheard_of", "")]
)
def test_unknown_family(damaged: Path, family: str, near: str) -> None:
    """Not known to transformers: a repository that brings its own code, which is never run."""
    edit(damaged, model_type=family, auto_map={"AutoConfig": "configuration.Config"})
    message = refused(damaged, f"is a '{family}' model; supported families: {', '.join(FAMILIES)}")
    assert f"did you mean {near!r}, with" in message if near else message.endswith(list(FAMILIES)[-1])


@pytest.mark.parametrize("family", UNREADABLE)
def test_a_family_that_cannot_be_read_is_refused_with_the_reason(damaged: Path, family: str) -> None:
    """Before any weights are looked for: a config is enough."""
    edit(damaged, model_type=family)
    for path in damaged.glob("*.safetensors"):
        path.unlink()
    refused(damaged, f"is a '{family}' model, which cannot be read: {UNREADABLE[family]}; supported families: llava")


@pytest.mark.parametrize("family", [*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "gpt2"])
def test_every_type_of_transformers_is_read_or_refused_by_its_config(family: str, tmp_path: Path) -> None:
    """In one sentence that names the type, why, and what to take instead; no other family is guessed from its name."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    if family in FAMILIES:
        assert family_of(tmp_path) is FAMILIES[family]
        return
    reason = f"which cannot be read: {UNREADABLE[family]}" if family in UNREADABLE else "whose family is not read here"
    expected = rf"is a {family!r} model, .*{reason}; supported families: {', '.join(FAMILIES)}"
    with pytest.raises(ValueError, match=re.escape(expected).replace(r"\.\*", ".*") + "$") as caught:
        family_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_family_is_of_a_type_of_transformers() -> None:
    assert set(FAMILIES) <= set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_no_family_is_both_read_and_refused() -> None:
    assert not UNREADABLE.keys() & FAMILIES.keys()
    assert set(UNREADABLE) <= set(CONFIG_MAPPING)


@pytest.mark.parametrize("kind", by_speed(FROZEN))
def test_experts_take_no_adapter(kind: str, tmp_path: Path) -> None:
    """A mixture of experts is read frozen; of a method that would tune its experts, all that it lacks is named."""
    FROZEN[kind].save(tmp_path)
    backbone = load_backbone(tmp_path, **FROZEN[kind].options)
    tuning, words = (
        Tuning(("[SEG]",), 4, 8.0, 0.0, ("q_proj", "down_proj")),
        AnswerTemplates(("[SEG]",), "{}", ("[SEG].",)),
    )
    with pytest.raises(ValueError, match="no layers down_proj to adapt; it has k_proj, o_proj, q_proj, v_proj"):
        backbone.adapt(tuning, words)


# ------------------------------------------------------------------ processors


@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_processors_as_the_hub_has_them(family: Path, tmp_path: Path, suffix: str) -> None:
    """Repositories name the torchvision class, and older ones keep the template in JSON."""
    copy, options = shutil.copytree(family, tmp_path / "hub"), KINDS[family.name].options
    file = copy / "preprocessor_config.json"
    named = json.loads(file.read_text())
    named["image_processor_type"] = named["image_processor_type"].removesuffix("Pil") + suffix
    file.write_text(json.dumps(named))
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_backbone(copy, **options).signature() == load_backbone(family, **options).signature()


@pytest.mark.parametrize("load", [load_backbone, load_decoder])
def test_a_model_that_no_hub_gives_is_named_in_one_line(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' own message has two to four."""

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("We couldn't connect to 'http://hub' to load the files.\nCheck your internet connection.")

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", unreachable)
    with pytest.raises(OSError, match=r"^some/model is no folder here, .* 'http://hub' .* or give a folder$") as caught:
        load("some/model")
    assert "\n" not in str(caught.value)


def test_an_error_of_this_machine_is_not_taken_for_the_hub_s() -> None:
    """A full disk keeps its number, by which its own message is found."""
    with pytest.raises(OSError, match="No space left") as caught, reaching("some/model"):
        raise OSError(errno.ENOSPC, "No space left on device", "blob")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"^some/model is no folder here, .*\(no answer\); check"), reaching("some/model"):
        raise OSError("no answer")


def test_what_is_on_this_machine_has_no_revision(tmp_path: Path) -> None:
    for name in ("embedded", str(tmp_path)):
        with pytest.raises(CheckpointError, match=r"got revision='abc' .* on this machine; leave it out"):
            Segmenter.from_pretrained(name, revision="abc")
