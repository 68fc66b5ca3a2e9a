"""Checks of options that a caller typed: each passes, or raises a `ConfigError` that says what was wanted. Pure."""

import math

from kafkapipes.errors import ConfigError


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless an option is one of its choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, choices))}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless an option is a number of seconds above 0, a millisecond at least and a day at the most."""
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not (number and 0.001 <= value <= 86_400):  # type: ignore[operator]  # a number by now
        raise ConfigError(f"{name} is {value!r}, wanted seconds, from 0.001 to 86400")


def check_count(name: str, value: object, most: int) -> None:
    """Raise unless an option is a whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name} is {value!r}, wanted a whole number from 1 to {most}")
