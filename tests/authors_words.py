"""What the authors' own code hands to its tokenizer, written down as data: each looked up in their public repository.

Of every conversation the string that is made for the query "the red cup", or for a sentence, in evaluation. Where ours
has to differ, the difference is data too."""

from __future__ import annotations

from dataclasses import dataclass

# tests/models/llava/test_processing_llava.py of huggingface/transformers: that of llava-hf/llava-1.5-7b-hf
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# src/transformers/models/internvl/convert_internvl_weights_to_hf.py there: that of OpenGVLab/InternVL3-2B-hf
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Said:
    """A conversation of a method's authors about a query of a kind. `theirs` with each of `differs` replaced is ours;
    image tokens stand as one."""

    method: str
    family: str
    query: str
    kind: str
    theirs: str
    differs: tuple[tuple[str, str], ...] = ()


SENTENCE = "Which of these can hold water?"
USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)
# LISA adds two tokens around the image to its tokenizer, which no -hf file has; and its tokenizer sees a blank before
# [SEG], where our answer begins after the colon
LISA_OURS = (("<im_start><image><im_end>", "<image>"), ("ASSISTANT: [SEG].</s>", "ASSISTANT:[SEG].</s>"))
# UFO shows the image after the question: a prefix that questions share must begin with the image. Its InternVL 2
# template has no line break after <|im_end|>, InternVL's -hf files have one; its LLaVA head has "User", and a blank
# after the colon
ASKED = "What is the red cup in this image? Please output segmentation mask."
UFO_INTERNVL = (
    (f"{ASKED}\n<img><IMG_CONTEXT></img>", f"<img><IMG_CONTEXT></img>\n{ASKED}"),
    ("<|im_end|><|im_start|>", "<|im_end|>\n<|im_start|>"),
)
UFO_LLAVA = ((f"User: {ASKED}\n<image> ASSISTANT: ", f"USER: <image>\n{ASKED} ASSISTANT:"),)

CONVERSATIONS = [
    # jiazhen-code/LENS @92d5d17: LISA/model_lisa/llava/conversation.py (default_conversation = conv_vicuna_v1),
    # lens/data/test_dataset.py (TestReferDataset, and TestReasoningDataset for a sentence), with an empty answer
    Said(
        "lens",
        "llava",
        "the red cup",
        "phrase",
        f"{USER} USER: <image>\nWhat is the red cup in this image? ASSISTANT:",
    ),
    Said("lens", "llava", SENTENCE, "sentence", f"{USER} USER: <image>\n {SENTENCE} ASSISTANT:"),
    # dvlab-research/LISA @f1abb5a: model/llava/conversation.py (conv_llava_v1, the default of train_ds.py),
    # utils/dataset.py (ValDataset, and collate_fn for the tokens around the image)
    Said(
        "lisa",
        "llava",
        "the red cup",
        "phrase",
        f"{HUMAN} USER: <im_start><image><im_end>\n What is the red cup in this image? Please output segmentation "
        "mask. ASSISTANT: [SEG].</s>",
        LISA_OURS,
    ),
    Said(
        "lisa",
        "llava",
        SENTENCE,
        "sentence",
        f"{HUMAN} USER: <im_start><image><im_end>\n {SENTENCE} Please output segmentation mask. ASSISTANT: [SEG].</s>",
        LISA_OURS,
    ),
    # jcwang0602/MLLMSeg @a28db02: mllmseg/dataset_vg.py (ValDataset: lower case, no full stops, no blank before "in"
    # nor after "Sure,"), internvl/conversation.py @b07aed9 (internvl2_5), mllmseg_internvl/dataset.py @b07aed9
    # (preprocess_internvl2_5: how the turns are joined)
    Said(
        "mllmseg",
        "internvl",
        "The red cup.",
        "phrase",
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
        "多模态大语言模型。<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT></img>\n What are the red cupin this image? "
        "Please output segmentation masks.<|im_end|>\n<|im_start|>assistant\nSure,the red cup:[SEG].<|im_end|>",
    ),
    # ANDYZAQ/SELF1E @124695b: model/internvl3/conversation.py (internvl2_5), utils_internvl/dataset.py (ValDataset)
    Said(
        "self1e",
        "internvl",
        "the red cup",
        "phrase",
        "<|im_start|>system\nYou are an helpful assistant.<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT></img>\n "
        "What is the red cup in this image? Please output segmentation mask.<|im_end|>\n<|im_start|>assistant\n[SEG]."
        "<|im_end|>",
    ),
    Said(
        "self1e",
        "internvl",
        SENTENCE,
        "sentence",
        "<|im_start|>system\nYou are an helpful assistant.<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT></img>\n "
        f"{SENTENCE} Please output segmentation mask.<|im_end|>\n<|im_start|>assistant\n[SEG].<|im_end|>",
    ),
    # nnnth/UFO @c64f4f1: mmdet/models/dense_heads/ufo_internvl_referseg_head.py and ufo_llava_referseg_head.py
    # (get_conversations; the last of the questions in a test)
    Said(
        "ufo",
        "internvl",
        "The red cup",
        "phrase",
        "<|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用"
        f"无害的人工智能助手。<|im_end|><|im_start|>user\n{ASKED}\n<img><IMG_CONTEXT></img><|im_end|><|im_start|>assistant\n",
        UFO_INTERNVL,
    ),
    Said("ufo", "llava", "The red cup", "phrase", f"{HUMAN} User: {ASKED}\n<image> ASSISTANT: ", UFO_LLAVA),
]
