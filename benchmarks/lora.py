"""LISA's way to train (arXiv 2308.00692, its `train_ds.py`): low-rank updates inside the MLLM. The yardstick of memory.

Rank 8 on the queries' and values' projections of all layers, two linear layers to the prompt, SAM's whole mask decoder;
LISA also trains the embedding of words and the output layer, for its one new token. What is trained is in fp32 and used
in bf16 (DeepSpeed's bf16 with fp32 masters takes as much); what is frozen is in bf16. Every question is a sequence of
its own with the image in it, as in LISA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from seglens.core.types import Embedding
from seglens.decoders.sam import SamDecoder
from seglens.methods.losses import mask_terms

RANK, ALPHA = 8, 16


class LowRank(nn.Module):
    """A frozen linear layer and its trained update."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        placement = {"device": base.weight.device, "dtype": torch.float32}
        self.base = base
        self.down = nn.Parameter(torch.randn(RANK, base.in_features, **placement) / RANK)
        self.up = nn.Parameter(torch.zeros(base.out_features, RANK, **placement))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down.to(x)), self.up.to(x)) * (ALPHA / RANK)


class LoraModel(nn.Module):
    """A LLaVA and a SAM with LISA's trainable parts. `words`: the embedding and the output layer are trained too."""

    def __init__(self, mllm: LlavaForConditionalGeneration, sam: SamDecoder, words: bool, checkpointing: bool):
        super().__init__()
        self.mllm, self.sam = mllm.requires_grad_(False), (sam,)
        self.mask_decoder = sam.trainable_decoder()
        width, placement = mllm.config.text_config.hidden_size, {"device": mllm.device, "dtype": torch.float32}
        self.project = nn.Sequential(
            nn.Linear(width, width, **placement), nn.ReLU(), nn.Linear(width, sam.width, **placement)
        )
        language = mllm.model.language_model
        for layer in language.layers:
            for name in ("q_proj", "v_proj"):
                setattr(layer.self_attn, name, LowRank(getattr(layer.self_attn, name)))
        if words:
            for part in (language.embed_tokens, mllm.lm_head):
                part.float().requires_grad_(True)
        if checkpointing:
            mllm.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        self.train()

    def forward(
        self, pixels: Tensor, canvas: Tensor, before: Tensor, behind: Tensor, masks: Tensor, answer: slice
    ) -> Tensor:
        """The loss. `pixels` "n 3 s s" are repeated for every question; `canvas` "b 3 s s" is SAM's; `before` and
        `behind` "n t" are the words around the image, the last of which are the answer."""
        language = self.mllm.model.language_model
        with torch.no_grad():
            embedding = self.sam[0]._embed(canvas)
            rows = self.mllm.get_image_features(
                pixels, vision_feature_layer=-2, vision_feature_select_strategy="default"
            ).pooler_output
        rows = torch.stack(list(rows))
        words = [language.embed_tokens(ids).to(rows) for ids in (before, behind)]
        hidden = language(inputs_embeds=torch.cat([words[0], rows, words[1]], 1), use_cache=False).last_hidden_state
        logits = F.linear(hidden, self.mllm.lm_head.weight.to(hidden))
        at = before.shape[1] + rows.shape[1]
        text_loss = F.cross_entropy(logits[:, at - 1 : -1].flatten(0, 1), behind.flatten())
        q = len(hidden) // len(canvas)
        token = hidden[:, answer].mean(1)
        with torch.autocast(hidden.device.type, torch.bfloat16):
            prompts = self.project(token).reshape(len(canvas), q, 1, -1)
            mask_logits = self.sam[0].decode(Embedding(embedding.coarse.float()), prompts, None, self.mask_decoder)
        terms = mask_terms(mask_logits.flatten(0, 1), masks.flatten(0, 1))
        return text_loss + 2.0 * terms["bce"].mean() + 0.5 * terms["dice"].mean()
