"""A recipe: what is done with every new checkpoint of a source, as a YAML file. Its version names what it asks for."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from artifacts.digest import canonical_json, record_bytes, sha256_bytes
from artifacts.folders import open_folder
from artifacts.store import open_store
from ghost.checkpoint.families import PRUNED
from ghost.config import Settings
from ghost.errors import SettingsError
from ghost.evaluation.harness import named_benchmarks
from ghost.settings import Gate, Place, Publication, RunSettings, Source

OWN_FIELDS = {*Source.model_fields, *Publication.model_fields} - {"tokenizer"}
"""Settings that differ from one checkpoint to the next."""
PLACES, NAMED = ("store", "calibration", "evaluation"), ("auto", "stdlib")
VERSION_LENGTH = 8

_PLACE = re.compile(r"(/|s3://)[^/].*")
_HUB = re.compile(r"hf:[A-Za-z0-9][A-Za-z0-9._-]*")


class Recipe(Settings):
    """What a recipe file says. Impossible values are refused when the object is made."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
    """Name of the recipe, part of the published folders' names: lower-case letters, digits and dashes."""
    source: str
    """Where new checkpoints appear: an absolute folder, s3://bucket/prefix, or hf:ORGANISATION."""
    publish: str
    """Where finished checkpoints go, each in a folder of its own: an absolute folder or s3://bucket/prefix."""
    settings: dict[str, Any] = Field(default={}, validate_default=True)
    """Settings of the runs, by the names that `ghost run --help` lists, with underscores."""
    families: tuple[str, ...] = PRUNED
    """Families whose checkpoints are taken, by model_type; native ones are mamba2. All that ghost prunes by default."""
    gate: Gate = Gate()
    """Quality gate: what exceeds it stays in the store and is not published."""
    max_attempts: int = Field(default=3, ge=1, le=100, strict=True)
    """Runs that may fail for one checkpoint before it is left alone."""
    stale_hours: float = Field(default=24.0, gt=0)
    """Hours without a sign of life after which a run that still counts as running is taken for dead."""

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if not _HUB.fullmatch(source) and not _PLACE.fullmatch(source):
            raise ValueError(f"{source!r} is no source; give an absolute folder, s3://bucket/prefix or hf:ORGANISATION")
        return source

    @field_validator("publish")
    @classmethod
    def _known_place(cls, publish: str) -> str:
        if not _PLACE.fullmatch(publish):
            raise ValueError(f"{publish!r} is no place to publish to; give an absolute folder or s3://bucket/prefix")
        return publish

    @field_validator("families")
    @classmethod
    def _known_families(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in families if name not in PRUNED]:
            raise ValueError(f"{unknown[0]!r} is no family that ghost prunes; give some of {', '.join(PRUNED)}")
        if not families:
            raise ValueError(f"none is listed; give some of {', '.join(PRUNED)}, or leave it out for all of them")
        return families

    @field_validator("settings")
    @classmethod
    def _possible_settings(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name, value in settings.items():
            _check_name(name)
            if name in PLACES:
                _check_place(name, value)
        if settings.get("keep") is not None and "sparsity" in settings:
            raise ValueError("keep and sparsity both say how much goes; give one of them")
        try:
            chosen = RunSettings.make(**settings)
            files = named_benchmarks(chosen.tasks, allow_code=chosen.allow_code).files
        except SettingsError as error:
            raise ValueError(str(error)) from None
        for name, path in files.items():
            _check_place(name, path, remote="s3://")
        return settings

    @model_validator(mode="after")
    def _two_places(self) -> "Recipe":
        if self.source.rstrip("/") == self.publish.rstrip("/"):
            raise ValueError(f"source and publish are both {self.source}; publish to a folder of its own")
        return self

    @model_validator(mode="after")
    def _gate_of_what_is_measured(self) -> "Recipe":
        try:
            RunSettings.make(**self.settings, **self.gate.limits)
        except SettingsError as error:
            raise ValueError(f"gate: {error} under settings") from None
        return self

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as a run takes them."""
        valid = RunSettings.make(**self.settings).model_dump(include=set(self.settings))
        defaults = {name: RunSettings.model_fields[name].default for name in valid}
        return {name: valid[name] for name in valid if defaults[name] not in (valid[name], self.settings[name])}

    @cached_property
    def content(self) -> dict[str, Any]:
        """All that decides what becomes of a checkpoint that is taken; defaults and places are not in it."""
        determining = {name: value for name, value in self.chosen.items() if name not in Place.model_fields}
        return {"name": self.name, "settings": determining, "gate": self.gate.limits}

    @property
    def version(self) -> str:
        """8 hex digits of the sha256 of the canonical JSON of `content`."""
        return sha256_bytes(canonical_json(self.content))[:VERSION_LENGTH]

    @property
    def label(self) -> str:
        """`name@version`, as runs and published manifests note it."""
        return f"{self.name}@{self.version}"

    def parameters(self, model: str, out: str) -> dict[str, Any]:
        """The parameters of the run that prunes `model` and publishes to `out`."""
        own = {"model": model, "out": out, "recipe": self.label}
        return self.chosen | self.gate.limits | own


def read_recipe(address: str) -> Recipe:
    """The recipe in a local file or under s3://. SettingsError names file, field, value and remedy."""
    try:
        return Recipe.model_validate(_parsed(address))
    except ValidationError as error:
        raise SettingsError(f"recipe {address}: {_first(error)}") from None


def keep_recipe(recipe: Recipe) -> None:
    """Put what the version stands for into the store, as recipes/NAME@VERSION.json."""
    settings = RunSettings.make(**recipe.settings)
    store, key = open_store(settings.store), f"recipes/{recipe.label}.json"
    if not store.exists(key):
        store.put(key, record_bytes(recipe.content))


def _check_name(name: str) -> None:
    """ValueError unless a recipe may say what this setting is."""
    if name in Gate.model_fields:
        raise ValueError(f"{name} is a limit of the quality gate; give it under gate")
    if name in OWN_FIELDS:
        raise ValueError(f"{name} is different for each checkpoint, the watch sets it; leave it out")
    if name not in RunSettings.model_fields:
        known = ", ".join(field for field in RunSettings.model_fields if field not in (*OWN_FIELDS, *Gate.model_fields))
        raise ValueError(f"{name}: no such setting; give one of {known}")


def _check_place(name: str, value: object, remote: str = "s3://|hf:") -> None:
    """ValueError for a path that means another file on every worker; a worker runs in a temporary folder."""
    if value not in NAMED and not re.match(f"/|{remote}", str(value)):
        raise ValueError(f"{name}: {value!r} is no absolute path; give one, or s3://bucket/path")


def _parsed(address: str) -> Any:
    try:
        return yaml.safe_load(_bytes(address))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"recipe {address} is not YAML ({reason}); see docs/watch.md for the form") from None


def _bytes(address: str) -> bytes:
    if address.startswith("s3://"):
        folder, _, name = address.rpartition("/")
        return open_folder(folder).read(name)
    try:
        return Path(address).expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(
            f"recipe {address} cannot be read ({error.strerror}); give the path of a YAML file, absolute for a worker"
        ) from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = Gate.model_fields if field.startswith("gate.") else Recipe.model_fields
        return f"{field}: no such field; give one of {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = f"not given; {Recipe.model_fields[field].description}"
    if first["type"] in ("value_error", "missing"):
        return f"{field}: {message}" if field else message
    return f"{field or 'the whole'}: {message} (got {first['input']!r}); mend it as docs/watch.md says"
