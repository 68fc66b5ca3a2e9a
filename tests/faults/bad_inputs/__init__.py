"""Bad inputs: what a user, a control topic or a record could hand over by mistake or on purpose, table by table.

An input is bad if it must end in one of our errors, soon, with a text that says what was wanted and what was found.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass

from kafkapipes import KafkaPipesError

CANARY = "canary-7f3a9c"  # stands for a secret: no error may show it


class _Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


MALICIOUS = pickle.dumps(_Malicious())  # whoever loads it ends the test run


@dataclass(frozen=True)
class BadInput:
    """One input, the error that it must end in, and pieces of that error's text: what was wanted, what was found."""

    name: str
    give: Callable[[], object]
    error: type[KafkaPipesError]
    texts: tuple[str, ...]
