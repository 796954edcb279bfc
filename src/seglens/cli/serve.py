"""`seglens serve`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from seglens.cli.loading import load_segmenter
from seglens.cli.options import ChatSegmenterOptions, Thresholds
from seglens.cli.output import print_stderr

if TYPE_CHECKING:
    from seglens.serving.http.settings import Settings

# The options are those of the server's settings, which are imported when this command runs: it gets all arguments.
PASS_ARGUMENTS = {"ignore_unknown_options": True, "help_option_names": list[str]()}
SECRET = "api_key"  # in the environment or a file: every user of a machine can read a command line


def serve(words: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS]...")] = None) -> None:
    """Serve the model over HTTP: open images, batched questions, an endpoint for OpenAI's clients."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(build_command())
    command(words or [], prog_name="seglens serve")


def build_command() -> Callable[..., None]:
    """A function with one option per setting."""
    try:
        from seglens.serving.http.settings import Settings
    except ImportError as error:
        raise ImportError("the server needs more packages; pip install 'seglens[serve]'") from error

    def command(**values: Any) -> None:
        _run(_settings(Settings, {name: value for name, value in values.items() if value is not None}))

    command.__doc__ = serve.__doc__
    options = [_option(name, field) for name, field in Settings.model_fields.items() if name != SECRET]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _option(name: str, field: Any) -> inspect.Parameter:
    """None by default, so that the settings read the environment themselves, by their own rules."""
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    kind = kinds[0] if len(kinds) == 1 and kinds[0] in (bool, int, float, str) else str
    default = field.default is not None and str(field.default)
    option = typer.Option(help=f"{field.description} (variable: SEGLENS_{name.upper()})", show_default=default)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _settings(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Raises ValueError that names the option, or the variable, and what is wrong with it."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        texts = (f"--{str(one['loc'][0]).replace('_', '-')} {one['input']!r}: {one['msg']}" for one in error.errors())
        raise ValueError(f"{'; '.join(texts)}; see seglens serve --help") from None


def _run(settings: Settings) -> None:
    import logging

    from seglens.serving.http.app import create_app
    from seglens.serving.http.process import RunningServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings.key(), settings.origins  # errors in them are reported before the model is loaded
    threshold_arguments = Thresholds(settings.presence_threshold, settings.mask_threshold).arguments()
    model_options = ChatSegmenterOptions(
        settings.model if "model" in settings.model_fields_set else None,
        settings.backbone,
        settings.decoder,
        settings.heads,
        settings.device,
        settings.dtype,
        settings.load_in,
        settings.as_is,
    )
    running = RunningServer(create_app(load_segmenter(model_options, **threshold_arguments), settings), settings)
    print_stderr(
        f"seglens: serving {model_options.name} on {running.address} "
        f"({running.address}/openapi.json describes the requests)"
    )
    running.run_until_signal()
    print_stderr("seglens: stopped")
