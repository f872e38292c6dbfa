"""Every error raised on purpose: one tree, so that a caller can catch what it can mend.

A mistake of the model (broken code, an empty query, a malformed reply) is never an exception: it is
data that the model reads and is scored on.
"""


class ArftError(Exception):
    """The root: `except ArftError` catches what this package raises on purpose."""


class UserError(ArftError):
    """Something the person at the keyboard can mend: a path, a key, a value, a missing extra.

    The message names the thing, shows the value and ends with the remedy. The command prints it
    without a traceback and exits with status 2.
    """


class ToolFailure(ArftError):
    """The machinery of a tool failed, through no fault of the model.

    The episode is set aside, counted and never trained on.
    """


class PolicyFailure(ArftError):
    """A model's server did not answer a prompt, through no fault of the model.

    The episodes that waited for it are set aside, counted and never trained on.
    """


class RunFailure(ArftError):
    """A run cannot go on, through no fault of who started it; what it has recorded stays.

    The command prints it without a traceback and exits with status 1.
    """


class TokenMismatch(ArftError):
    """Image tokens and image features of one task do not match: never trained on, never ignored.

    Raise it with the `index` of the prompt in the batch where that is known; who knows the tasks
    raises it again with the task's name.
    """

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class EpisodeError(ArftError):
    """An episode was told something it did not ask for: a bug in the driver."""


class SessionOver(ArftError):
    """A step was sent to a sandbox session that has ended; `restart` begins it anew."""
