"""What all settings are made of: a value with its meaning, its reason and the source of the reason, in frozen groups."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Who = Literal["default", "preset", "user", "derived", "measured"]


def setting(default: Any, what: str, why: str, source: str = "", **limits: Any) -> Any:
    """A field of a recipe: its default, what it is, why that default, and where the reason comes from."""
    return Field(default, description=what, json_schema_extra={"why": why, "source": source}, **limits)


class Part(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )


class Origin(Part):
    """Who set a value, and why."""

    by: Who = "default"
    why: str = ""
