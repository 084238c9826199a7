"""One declaration of a run's options: the fields of its settings class. Flow and command line read them from there."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from ghost.config import Settings
from ghost.settings import PARTS

Wrapped = Callable[..., Any]


def flow_parameters(settings_class: type[Settings]) -> Callable[[Wrapped], Wrapped]:
    """Turn `f(settings)` into a function with one keyword per field. Prefect makes the deployment's form of it.

    The form knows each field's bounds and choices, and so does the server, which refuses bad values before a run
    exists.
    """

    def decorate(function: Wrapped) -> Wrapped:
        fields = settings_class.model_fields.items()
        schema = settings_class.model_json_schema()["properties"]
        bounded = {name: Annotated[field.annotation, WithJsonSchema(schema[name])] for name, field in fields}

        @wraps(function)
        def flat(*values: Any, **named: Any) -> Any:
            return function(settings_class.make(**inspect.signature(flat).bind(*values, **named).arguments))

        _sign(flat, [_parameter(name, field, bounded[name]) for name, field in fields])
        described = "\n".join(f"    {name}: {_help(field)}" for name, field in fields)
        flat.__doc__ = f"{function.__doc__}\n\nArgs:\n{described}"
        return flat

    return decorate


def command_options(settings_class: type[Settings], argument: str) -> Callable[[Wrapped], Wrapped]:
    """Turn `f(fields, **others)` into a command with one option per field (the field `argument` by position)."""

    def decorate(function: Wrapped) -> Wrapped:
        @wraps(function)
        def flat(**given: Any) -> Any:
            fields = {name: given.pop(name) for name in settings_class.model_fields}
            return function(fields, **given)

        own = list(inspect.signature(function).parameters.values())[1:]
        options = [
            _parameter(name, field, Annotated[field.annotation, _option(name, field, name == argument)])
            for name, field in settings_class.model_fields.items()
        ]
        _sign(flat, sorted([*options, *own], key=lambda parameter: parameter.default is not inspect.Parameter.empty))
        return flat

    return decorate


def _option(name: str, field: FieldInfo, positional: bool) -> Any:
    """Listed by `--help` under the part of the settings that it belongs to."""
    if positional:
        return typer.Argument(help=_help(field))
    part = next(part for part in PARTS if name in part.model_fields)
    return typer.Option(help=_help(field), rich_help_panel=(part.__doc__ or "").rstrip("."))


def _help(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _parameter(name: str, field: FieldInfo, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=field.default, annotation=annotation)


def _sign(function: Wrapped, parameters: list[inspect.Parameter]) -> None:
    function.__dict__.update(__signature__=inspect.Signature(parameters))
    function.__annotations__ = {p.name: p.annotation for p in parameters}
