"""What we use of other packages' insides: each thing by name, with an upper bound on its package in pyproject.

A private name may go with any release. The list is read from the source, so that a new one cannot slip in, and what it
holds is looked for in the installed version, so that a failure names what went."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import seglens

ROOT = Path(__file__).parents[1]
SOURCE = Path(seglens.__file__).parent
PRIVATE = {  # names with an underscore
    "_attn_implementation": "transformers",
    "_data": "gradio",
    "_hf_hook": "accelerate",
    "_python_dispatch": "torch",
    "_pytree": "torch",
    "_reset_state": "accelerate",
    "_subclasses": "torch",
}
DOCUMENTED = {"_replace", "_asdict", "_fields"}  # of named tuples
INSIDE = {  # modules that no documentation names, and what must be in them
    "transformers.cache_utils": ("LinearAttentionLayer",),
    "transformers.image_processing_base": ("ImageProcessingMixin",),
    "transformers.image_processing_utils": ("select_best_resolution",),
    "transformers.image_utils": ("PILImageResampling", "make_flat_list_of_images"),
    "transformers.models.got_ocr2.image_processing_pil_got_ocr2": ("get_optimal_tiled_canvas",),
    "transformers.models.llava_next.modeling_llava_next": ("unpad_image",),
    "transformers.models.molmo2.image_processing_molmo2": ("Molmo2ImageProcessor",),
    "transformers.video_processing_utils": ("VideoProcessorMixin",),
    "transformers.vision_utils": ("get_vision_window_index",),
    "uvicorn.protocols.http.h11_impl": ("H11Protocol",),
    "peft.tuners.lora": ("LoraLayer",),
}
METHODS = {  # of classes that we stand in for or call from within
    "transformers:ProcessorMixin": (
        "check_argument_for_proper_class",
        "from_args_and_dict",
        "get_attributes",
        "get_processor_dict",
    ),
    "transformers.models.molmo2.image_processing_molmo2:Molmo2ImageProcessor": (
        "convert_to_rgb",
        "resize",
        "normalize",
    ),
    "accelerate.state:AcceleratorState": ("_reset_state",),
    "uvicorn.protocols.http.h11_impl:H11Protocol": (
        "connection_made",
        "data_received",
        "eof_received",
        "connection_lost",
        "pause_writing",
        "resume_writing",
    ),
    "uvicorn:Server": ("run", "serve", "handle_exit"),
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCE.rglob("*.py"):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[a-z]\w*", name) is not None and name not in DOCUMENTED


def own_names() -> set[str]:
    """Every private name that our own source makes."""
    names = set[str]()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                names.add(node.attr)
    return names


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def used(tree: ast.Module) -> Iterator[str]:
    """Private names that are used: as attributes, in `getattr` and the like, or by import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):  # "_name" in vars(thing)
            yield str(node.left.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            yield from (part for name in [module, *(a.name for a in node.names)] for part in name.split("."))


def upper_bounds() -> dict[str, str]:
    """The upper bound of every package that has one wherever it is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [
        *project["dependencies"],
        *(one for name, extra in extras.items() if name != "dev" for one in extra),
    ]
    bounds, free = dict[str, str](), set[str]()
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        bound = re.search(r"<=?\s*[\d.]+", requirement)
        assert name is not None
        if bound is None:
            free.add(name[0])
        else:
            bounds[name[0]] = bound[0]
    return {name: bound for name, bound in bounds.items() if name not in free}


def test_every_private_name_of_another_package_is_on_the_list() -> None:
    own = own_names()
    names = {name for _, tree in trees() for name in used(tree) if is_private(name) and name not in own}
    assert names == set(PRIVATE)


def test_modules_inside_other_packages_are_on_the_list() -> None:
    watched = {"transformers", "uvicorn", "peft"}
    documented = {"transformers", "transformers.utils", "uvicorn", "peft"}
    modules = {
        node.module
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in watched
    }
    assert modules - documented == set(INSIDE)


@pytest.mark.parametrize("package", sorted({*PRIVATE.values(), *(key.split(".")[0] for key in INSIDE)}))
def test_a_package_whose_insides_are_used_has_an_upper_bound(package: str) -> None:
    assert package in upper_bounds(), f"pyproject: give {package} an upper bound, in every extra that names it"


@pytest.mark.parametrize("module", INSIDE)
def test_the_installed_version_has_the_modules(module: str) -> None:
    pytest.importorskip(module.split(".")[0])
    assert all(hasattr(import_module(module), name) for name in INSIDE[module])


@pytest.mark.parametrize("owner", METHODS)
def test_the_installed_version_has_the_methods(owner: str) -> None:
    module, _, name = owner.partition(":")
    pytest.importorskip(module.split(".")[0])
    kind = getattr(import_module(module), name)
    assert [method for method in METHODS[owner] if not callable(getattr(kind, method, None))] == []


def test_a_connection_of_uvicorn_has_a_cycle() -> None:
    """Whether a request is under way, `serving/http/idle_timeout.py` reads there."""
    module = pytest.importorskip("uvicorn.protocols.http.h11_impl")
    names = {node.attr for node in ast.walk(_parsed(module)) if isinstance(node, ast.Attribute)}
    assert {"cycle", "response_complete"} <= names


def test_attention_goes_by_the_name_in_the_config() -> None:
    from transformers import LlamaConfig

    config: Any = LlamaConfig(num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    assert config._attn_implementation == "sdpa"
    module: Callable[..., Any] = import_module("transformers.models.llama.modeling_llama")
    assert "_attn_implementation" in {n.attr for n in ast.walk(_parsed(module)) if isinstance(n, ast.Attribute)}


def test_a_hook_of_accelerate_lies_where_it_is_looked_for() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    from torch import nn

    module = nn.Linear(2, 2)
    hooks.add_hook_to_module(module, hooks.ModelHook())
    assert "_hf_hook" in vars(module)


def test_the_whole_of_a_page_event_lies_where_it_is_read() -> None:
    gradio = pytest.importorskip("gradio")
    assert gradio.EventData(None, {"shape": 1})._data == {"shape": 1}


def _parsed(module: Any) -> ast.Module:
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
