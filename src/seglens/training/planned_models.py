"""What the models of a training need, from their configs alone: nothing but small config files is fetched."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seglens.backbones import Blueprint, draw_blueprint
from seglens.backbones.layers import clone_layers
from seglens.checkpoints.hub import hub_commit
from seglens.checkpoints.origin import Origin
from seglens.decoders import MaskDecoder, draw_decoder
from seglens.evaluation.costs import QUESTION
from seglens.methods import METHODS, Lens, name_of
from seglens.training.account import AllPrompts, PassShape, Peak, accounted, encoding, lens_loss, pretend
from seglens.training.config import TrainConfig
from seglens.training.planned_tuned import TunedPlan
from seglens.training.presets import Recipe

BEFORE = 40  # tokens of the template and a system text before the image: an assumption

POSITION = 8  # bytes of one number of a position


@dataclass(frozen=True)
class PlannedModels:
    """The frozen parts of a recipe as their configs describe them. `half`: whether the MLLM computes in half precision,
    as it does on a GPU. `tokens` are those before the image and of a question."""

    recipe: Recipe
    mllm: Blueprint
    half: bool
    tokens: tuple[int, int] = (BEFORE, QUESTION)

    @classmethod
    def of(cls, recipe: Recipe, image_size: int | None, half: bool) -> PlannedModels:
        """Raises ValueError when the recipe names no MLLM, or one that is not supported."""
        if recipe.backbone is None or (recipe.decoder is None and METHODS[name_of(recipe.method)].needs_decoder):
            raise ValueError("this preset names no MLLM or no mask decoder; give --backbone and --decoder")
        origin = Origin.of(recipe.backbone)
        return cls(recipe, draw_blueprint(origin.resolve(), layer=recipe.layer, image_size=image_size), half)

    @property
    def lens(self) -> bool:
        return name_of(self.recipe.method) == "lens"

    def _decoder(self) -> MaskDecoder | None:
        needed = METHODS[name_of(self.recipe.method)].needs_decoder and self.recipe.decoder is not None
        return draw_decoder(Origin.of(str(self.recipe.decoder)).resolve()) if needed else None

    @property
    def recomputes(self) -> bool:
        """Whether gradient checkpointing is on."""
        return not self.lens and self.recipe.training.recomputes(self.mllm.parameters())

    def recomputing(self, on: bool) -> PlannedModels:
        """The same with gradient checkpointing, or without."""
        return replace(self, recipe=replace(self.recipe, training=replace(self.recipe.training, recompute=on)))

    @cached_property
    def shape(self) -> PassShape:
        """Of one image with one question. Raises ValueError for a method that has no mask decoder."""
        decoder, text = self._decoder(), self.mllm.text
        if decoder is None:
            raise ValueError("only methods on frozen parts have features to cache")
        axes = 3 if "mrope_section" in str(text.to_dict().get("rope_parameters") or text.to_dict()) else 1
        before, words = self.tokens
        grid, width = self.mllm.layout.grid, text.hidden_size
        return PassShape(1, 1, before, words, grid, width, axes, decoder.shapes, decoder.mask_side)

    # ---------------------------------------------------------------- bytes

    def mllm_bytes(self) -> int:
        """Of the MLLM's weights in memory: without the layers that segmenting never runs, if it is frozen."""
        frozen = not METHODS[name_of(self.recipe.method)].tuned
        return self.mllm.weight_bytes(segmentation_only=frozen) * (1 if self.half else 2)

    @cached_property
    def encoder(self) -> tuple[int, int, float]:
        """Of the mask decoder's model, in fp32: bytes of weights, bytes beside them while it encodes an image, and the
        operations of that."""
        decoder = self._decoder()
        if decoder is None:
            return 0, 0, 0.0
        weights = sum(p.numel() * p.element_size() for p in decoder.module.parameters())
        return weights, *encoding(decoder)

    def beside_bytes(self) -> int:
        """Of the frozen weights that `peak` does not count."""
        return self.encoder[0] + (self.mllm_bytes() if self.lens else 0)

    def example_bytes(self, questions: int) -> int:
        """Of an example in the memory of the host."""
        if self.lens:
            return self.image_bytes() + questions * self.question_bytes()
        plan = self._tuned(1, 1)
        maps = () if plan.decoder is None else plan.decoder.shapes
        pixels = 3 * plan.side**2 * (2 if self.half else 4)
        return pixels + questions * plan.method.mask_side**2 + sum(4 * c * h * w for c, h, w in maps)

    def downloads(self) -> dict[str, int]:
        """Bytes of weights by the hub ids that are not on this machine: the MLLM's in bf16, SAM's in fp32."""
        sizes = {self.recipe.backbone: self.mllm.weight_bytes(), self.recipe.decoder: self.encoder[0]}
        return {
            name: size
            for name, size in sizes.items()
            if name is not None and Origin.of(name).resolve() == name and not name.startswith("/") and not _here(name)
        }

    def image_bytes(self) -> int:
        """Of one image in a cache, without its questions."""
        shape = self.shape
        maps = sum(c * h * w for c, h, w in shape.maps)
        return shape.prefix * shape.width * (2 if self.half else 4) + 4 * maps

    def question_bytes(self) -> int:
        """Of one question in a cache: its rows and their positions, its mask, its cells, and its length."""
        shape = self.shape
        rows = shape.words * (shape.width * (2 if self.half else 4) + POSITION * shape.axes)
        cells = (self.recipe.floors or 0) ** 2 or shape.grid[0] * shape.grid[1]
        return rows + shape.mask_side**2 + cells + POSITION + 1

    # ---------------------------------------------------------------- the head

    def _head(self) -> tuple[Lens, MaskDecoder]:
        decoder = self._decoder()
        assert decoder is not None
        text, copied = self.mllm.text, self.mllm.copied_runs()
        sizes = text.hidden_size, text.num_attention_heads, text.intermediate_size
        with torch.device("meta"):
            layers = clone_layers(copied, self.mllm.module.get_decoder().rotary_emb)
            head = Lens(self.recipe.method, layers, *sizes, AllPrompts(decoder), self.mllm.depth.copied)
        return head.train(), decoder

    def _tuned(self, images: int, questions: int) -> TunedPlan:
        """Of a pass, with gradient checkpointing as the recipe has it."""
        drawn = replace(self.mllm, module=copy.deepcopy(self.mllm.module))  # the account gives it fake tensors
        dtype = torch.bfloat16 if self.half else torch.float32
        recipe, decoder = self.recipe, self._decoder()
        plan = TunedPlan.draw(recipe.method, drawn, decoder, dtype, self.tokens, recipe.canvas)
        return plan.of(images, questions).recompute(self.recomputes)

    @cached_property
    def trained(self) -> int:
        """Parameters that are trained."""
        if not self.lens:
            return self._tuned(1, 1).trained
        return sum(p.numel() for p in self._head()[0].parameters() if p.requires_grad)

    def peak(self, images: int, questions: int, fused: bool, passes: int = 1, buckets: bool = False) -> Peak:
        """Of a step: weights and states of what is trained and SAM's mask decoder included, and of a method that tunes
        the MLLM, too; LENS learns from features. `passes` and `buckets` as in `accounted`."""
        if not self.lens:
            plan = self._tuned(images, questions)
            trained = plan.method
            return accounted(
                trained, plan.beside, lambda: plan.loss("cpu"), lambda: self._optimiser(trained, fused), passes, buckets
            )
        head, decoder = self._head()
        decoder.module.vision_encoder = None
        shape = replace(self.shape, images=images, questions=questions)

        def loss() -> Tensor:
            return lens_loss(head, shape, "cpu")

        return accounted(head, [decoder.module], loss, lambda: self._optimiser(head, fused), passes, buckets)

    def _optimiser(self, trained: nn.Module, fused: bool) -> torch.optim.AdamW:
        training: TrainConfig = self.recipe.training
        parameters = [p for p in trained.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=training.lr, betas=training.betas, **({"fused": True} if fused else {}))

    # ---------------------------------------------------------------- operations

    def reading_flops(self) -> float:
        """Of the MLLM for an image: twice its weights for every token; attention between tokens is not counted."""
        tower = self._tower()
        patches = (self.mllm.layout.image_size / 14) ** 2  # 14 pixels are usual
        return 2.0 * (tower * patches + self._below() * self.shape.prefix)

    def question_flops(self) -> float:
        return 2.0 * self._below() * self.shape.words

    def step_flops(self, questions: int) -> float:
        """Of what is trained for an image with its questions: forward, backward, and what is computed again."""
        if not self.lens:
            plan = self._tuned(1, questions)
            with FakeTensorMode(), FlopCounterMode(display=False) as counter:
                plan.pretend()
                plan.loss("cpu").backward()
            return float(counter.get_total_flops())
        head, decoder = self._head()
        decoder.module.vision_encoder = None
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            pretend(head)
            pretend(decoder.module)
            lens_loss(head, replace(self.shape, questions=questions), "cpu").backward()
        return float(counter.get_total_flops())

    def _below(self) -> float:
        """Parameters of the decoder layers that run."""
        layers = self.mllm.module.get_decoder().layers[: self.mllm.depth.layer]
        return float(sum(p.numel() for layer in layers for p in layer.parameters()))

    def _tower(self) -> float:
        """Parameters of the vision side."""
        language = {id(p) for p in self.mllm.module.get_decoder().parameters()}
        output = self.mllm.module.get_output_embeddings()
        language |= {id(p) for p in output.parameters()} if output is not None else set()
        return float(sum(p.numel() for p in self.mllm.module.parameters() if id(p) not in language))


def _here(name: str) -> bool:
    """Whether weights of a hub id are on this machine: its config alone comes with the plan itself."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    return hub_commit(name) is not None and any(isinstance(try_to_load_from_cache(name, f), str) for f in files)
