"""Settings checked by pydantic, with errors that a user can act on."""

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from gppdfd.errors import UsageError, unknown

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: object, where: str) -> Model:
    """Make a `model` of `value`.

    Args:
        model: what to make.
        value: settings as read from a file or the command line.
        where: file or option that the settings come from, for the message.

    Raises:
        UsageError: names the place and the key; for an unknown key also the near ones.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _readable(error, model, where) from None


def _readable(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    first = error.errors(include_url=False)[0]
    *parents, last = first["loc"] or ("",)
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        inside = f" in {'.'.join(map(str, parents))}" if parents else ""
        return UsageError(f"{where}: {unknown(f'key{inside}', str(last), _keys(model, parents))}")
    if first["type"] == "missing":
        return UsageError(f"{where}: {place} is missing")
    message = first["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}: {place}: {message}" if place else f"{where}: {message}")


def _keys(model: type[BaseModel], place: list[Any]) -> list[str]:
    """Names of the fields that the settings at `place` may have."""
    for part in place:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            model = _model_in(field.annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class within `X`, `X | None`, `list[X]`, `dict[str, X]`, ..."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
