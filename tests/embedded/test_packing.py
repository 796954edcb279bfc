"""Many questions in one sequence are the same as many sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seglens.embedded.models import LLAVA, make_llava, make_tokenizer
from seglens.embedded.packing import IGNORED, LENGTH_POWER, pack
from seglens.world.language import Question, lesson, speaker
from seglens.world.world import World

WORLD = World("train", 3)
SCENES = [lesson(speaker(WORLD, index), count) for index, count in ((0, 7), (1, 4))]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_packed_questions_do_not_attend_to_each_other(tokenizer) -> None:
    torch.manual_seed(0)
    image_token = tokenizer.convert_tokens_to_ids(LLAVA.image)
    language = make_llava(len(tokenizer), image_token).model.language_model.eval()
    picture = torch.randn(len(SCENES), LLAVA.tokens**2, 256)

    def embed(ids: Tensor, image: Tensor, first: int) -> Tensor:
        words = language.embed_tokens(ids)
        return torch.cat([words[:, :first], image, words[:, first + LLAVA.tokens**2 :]], 1)

    packed = pack(tokenizer, SCENES, LLAVA)
    with torch.no_grad():
        embedded = embed(packed.ids, picture, packed.first_image)
        hidden = language(
            inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        worst = 0.0
        for b, questions in enumerate(SCENES):
            for question, (_, start, length) in zip(questions, packed.spans[b], strict=True):
                # alone it is a plain causal sequence: neither our mask nor our positions
                alone = pack(tokenizer, [[question]], LLAVA)
                plain = language(
                    inputs_embeds=embed(alone.ids, picture[b : b + 1], alone.first_image), use_cache=False
                ).last_hidden_state[0]
                count = plain.shape[0] - (alone.first_image + LLAVA.tokens**2)
                here = hidden[b, start + length - count : start + length]
                worst = max(worst, (here - plain[-count:]).abs().max().item())
    assert hidden.std() > 0.5
    assert worst < 3e-5  # measured: 3.5e-6 in float32 on CPU, from sums taken in another order


def test_labels_are_the_answers(tokenizer) -> None:
    packed = pack(tokenizer, SCENES, LLAVA)
    for b, questions in enumerate(SCENES):
        assert [kind for kind, _, _ in packed.spans[b]] == [q.kind for q in questions]
        labelled = torch.zeros_like(packed.labels[b], dtype=torch.bool)
        for question, (_, start, length) in zip(questions, packed.spans[b], strict=True):
            answer = packed.labels[b, start : start + length]
            assert torch.equal(answer, packed.ids[b, start : start + length])
            assert tokenizer.convert_ids_to_tokens(answer.tolist())[-1] == "</s>"
            assert tokenizer.decode(answer[:-1]).replace(" ,", ",") == question.answer
            assert packed.weights[b, start : start + length].tolist() == pytest.approx([length**LENGTH_POWER] * length)
            labelled[start : start + length] = True
        assert (packed.labels[b][~labelled] == IGNORED).all()
        assert (packed.weights[b][~labelled] == 0).all()


def test_every_row_attends_to_something(tokenizer) -> None:
    """Padding sees itself: a row without a key would be NaN."""
    packed = pack(tokenizer, [SCENES[0], [Question("count", "count the cats.", "0")]], LLAVA)
    assert ((packed.mask == 0).sum(-1) >= 1).all()
    assert (packed.labels[1, packed.spans[1][-1][1] + packed.spans[1][-1][2] :] == IGNORED).all()
