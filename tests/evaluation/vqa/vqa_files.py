"""Two or three questions in the layouts in which VQAv2, OK-VQA, TextVQA, VizWiz and GQA publish theirs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEOPLE = 10


def ten(*answers: str) -> list[dict[str, Any]]:
    """The answers of ten people, the last of `answers` for those who remain."""
    every = [*answers, *[answers[-1]] * (PEOPLE - len(answers))]
    return [{"answer": one, "answer_confidence": "yes", "answer_id": k} for k, one in enumerate(every, 1)]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def put_images(folder: Path, names: list[str], encoded: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(base64.b64decode(encoded))


def vqa(root: Path, encoded: str, prefix: str) -> Path:
    """The validation split as its two files, and a test-dev split whose answers are not published."""
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "license": {"name": "CC BY 4.0"}}
    rows = [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "Is he tall?", "question_id": 262148001},
        {"image_id": 393225, "question": "How many are there?", "question_id": 393225000},
    ]
    answers = [
        ("other", "where is the", ten("down", "down", "at table", "skateboard")),
        ("yes/no", "is he", ten("yes")),
        ("number", "how many", ten("two", "2")),
    ]
    known = [
        {
            "question_type": start,
            "multiple_choice_answer": people[-1]["answer"],
            "answers": people,
            "image_id": row["image_id"],
            "answer_type": kind,
            "question_id": row["question_id"],
        }
        for row, (kind, start, people) in zip(rows, answers, strict=True)
    ]
    questions = {**head, "task_type": "Open-Ended"}
    write(
        root / f"{prefix}OpenEnded_mscoco_val2014_questions.json",
        {**questions, "data_subtype": "val2014", "questions": rows},
    )
    write(root / f"{prefix}mscoco_val2014_annotations.json", {**head, "data_subtype": "val2014", "annotations": known})
    write(
        root / f"{prefix}OpenEnded_mscoco_test-dev2015_questions.json",
        {**questions, "data_subtype": "test-dev2015", "questions": rows[:2]},
    )
    names = ["COCO_val2014_000000262148.jpg", "COCO_val2014_000000393225.jpg"]
    put_images(root / "val2014", names, encoded)
    put_images(root / "test2015", [name.replace("val2014", "test2015") for name in names], encoded)
    return root


def vqav2(root: Path, encoded: str) -> Path:
    return vqa(root, encoded, "v2_")


def okvqa(root: Path, encoded: str) -> Path:
    return vqa(root, encoded, "")


def textvqa(root: Path, encoded: str) -> Path:
    rows = [
        {
            "question": "what is the brand?",
            "image_id": "0054c91397f2fe05",
            "image_classes": ["Camera"],
            "flickr_original_url": "https://c8.staticflickr.com/6/5613.jpg",
            "image_width": 1024,
            "image_height": 730,
            "answers": ["nous les gosses", *["dakota"] * 9],
            "question_tokens": ["what"],
            "question_id": 34602,
            "set_name": "val",
        },
        {
            "question": "what does the light read?",
            "image_id": "005635e119b9f32f",
            "image_classes": [],
            "answers": [*["don't walk"] * 4, *["Don't Walk"] * 6],
            "question_id": 34603,
            "set_name": "val",
        },
    ]
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    write(root / "TextVQA_0.5.1_val.json", {**head, "data": rows})
    test = [{**{k: v for k, v in rows[0].items() if k != "answers"}, "set_name": "test"}]
    write(root / "TextVQA_0.5.1_test.json", {**head, "dataset_type": "test", "data": test})
    put_images(root / "train_images", [f"{row['image_id']}.jpg" for row in rows], encoded)
    put_images(root / "test_images", [f"{rows[0]['image_id']}.jpg"], encoded)
    return root


def vizwiz(root: Path, encoded: str) -> Path:
    rows = [
        {
            "image": "VizWiz_val_00000000.jpg",
            "question": "Ok. There is another picture I hope it is a better one.",
            "answers": [
                {"answer_confidence": "yes", "answer": one} for one in ["unanswerable"] * 8 + ["unsuitable"] * 2
            ],
            "answer_type": "unanswerable",
            "answerable": 0,
        },
        {
            "image": "VizWiz_val_00000001.jpg",
            "question": "What is this?",
            "answers": [{"answer_confidence": "maybe", "answer": one} for one in ["coca-cola"] * 2 + ["coca cola"] * 8],
            "answer_type": "other",
            "answerable": 1,
        },
    ]
    write(root / "Annotations" / "val.json", rows)
    write(root / "Annotations" / "test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "What is it?"}])
    put_images(root / "val", [row["image"] for row in rows], encoded)
    put_images(root / "test", ["VizWiz_test_00000000.jpg"], encoded)
    return root


def gqa(root: Path, encoded: str) -> Path:
    def question(text: str, answer: str, structural: str, semantic: str, balanced: bool = True) -> dict[str, Any]:
        return {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}],
            "entailed": [],
            "equivalent": [],
            "question": text,
            "imageId": "n161313",
            "isBalanced": balanced,
            "groups": {"global": None, "local": "10-scene"},
            "answer": answer,
            "semanticStr": "select: scene",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "fullAnswer": f"It is {answer}.",
            "types": {"detailed": "place", "semantic": semantic, "structural": structural},
        }

    rows = {
        "20968379": question("Is it outdoors?", "yes", "verify", "global"),
        "20968380": question("Who wears the shirt?", "girl", "query", "rel"),
        "20968381": question("Is the cup red or blue?", "red", "choose", "attr"),
        "20968382": question("Is it indoors?", "no", "verify", "global", balanced=False),
    }
    write(root / "testdev_balanced_questions.json", rows)
    put_images(root / "images", ["n161313.jpg"], encoded)
    return root


WRITERS: dict[str, Callable[[Path, str], Path]] = {
    "vqav2": vqav2,
    "okvqa": okvqa,
    "textvqa": textvqa,
    "vizwiz": vizwiz,
    "gqa": gqa,
}
