"""`seglens serve`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seglens.cli.shared import TalkingSystem, Thresholds, load_segmenter, say

if TYPE_CHECKING:
    from seglens.serving.http.settings import Settings

# The options are those of the server's settings, which are imported when this command runs: their words are passed on.
PASSED_ON = {"ignore_unknown_options": True, "help_option_names": list[str]()}
SECRET = "api_key"  # in the environment or a file: a command line is seen by every user of a machine


def serve(words: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS]...")] = None) -> None:
    """Serve the model over HTTP: open images, batched questions, an endpoint for OpenAI's clients."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(build_command())
    command(words or [], prog_name="seglens serve")


def build_command() -> Callable[..., None]:
    """A function with an option per setting."""
    try:
        from seglens.serving.http.settings import Settings
    except ImportError as error:
        raise ImportError("the server needs more packages; pip install 'seglens[serve]'") from error

    def command(**given: Any) -> None:
        _run(_settings(Settings, {name: value for name, value in given.items() if value is not None}))

    command.__doc__ = serve.__doc__
    options = [_option(name, field) for name, field in Settings.model_fields.items() if name != SECRET]
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _option(name: str, field: Any) -> inspect.Parameter:
    """Unset unless given, so that the settings hear the environment themselves, by their own rules."""
    kind = field.annotation if field.annotation in (bool, int, float, str) else str
    shown = field.default is not None and str(field.default)
    said = typer.Option(help=f"{field.description} (variable: SEGLENS_{name.upper()})", show_default=shown)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, said]
    )


def _settings(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Raises ValueError that names the option, or the variable, and what is wrong with it."""
    from pydantic import ValidationError

    try:
        return kind(**given)
    except ValidationError as error:
        said = (f"--{str(one['loc'][0]).replace('_', '-')} {one['input']!r}: {one['msg']}" for one in error.errors())
        raise ValueError(f"{'; '.join(said)}; see seglens serve --help") from None


def _run(settings: Settings) -> None:
    import logging

    from seglens.serving.http.app import create_app
    from seglens.serving.http.process import RunningServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings.key(), settings.origins  # what is wrong is told before the model is loaded
    sure = Thresholds(settings.presence_threshold, settings.mask_threshold).options()
    system = TalkingSystem(
        settings.model if "model" in settings.model_fields_set else None,
        settings.backbone,
        settings.decoder,
        settings.heads,
        settings.device,
        settings.dtype,
        settings.load_in,
        settings.as_is,
    )
    running = RunningServer(create_app(load_segmenter(system, **sure), settings), settings)
    say(f"seglens: serving {system.name} on {running.address} ({running.address}/openapi.json says how to ask)")
    running.run_until_signal()
    say("seglens: stopped")
