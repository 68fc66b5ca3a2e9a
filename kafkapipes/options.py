"""Checks of options that a caller typed: each passes, or raises a `ConfigError` that says what was wanted. Pure."""

from kafkapipes.errors import ConfigError

_SHOWN = 300  # characters of a value in a message


def shown(value: object) -> str:
    """A value for a message: its repr, which escapes control characters, cut where it is long.

    >>> shown("a\\n"), len(shown("a" * 10_000))
    ("'a\\\\n'", 322)
    """
    try:
        text = repr(value)
    except Exception as exc:  # a repr may be anybody's code, and Python refuses that of a very long integer
        return f"a {type(value).__name__} whose repr raises {type(exc).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless an option is one of its choices."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} is {shown(value)}, wanted one of {', '.join(map(repr, choices))}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless an option is a number of seconds above 0, a millisecond at least and a day at the most."""
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not (number and 0.001 <= value <= 86_400):  # type: ignore[operator]  # a number by now
        raise ConfigError(f"{name} is {shown(value)}, wanted seconds, from 0.001 to 86400")


def check_count(name: str, value: object, most: int, least: int = 1) -> None:
    """Raise unless an option is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} is {shown(value)}, wanted a whole number from {least} to {most}")
