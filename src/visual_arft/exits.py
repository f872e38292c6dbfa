"""How the command ends: 2 for wrong use, 1 for a run that failed, 130 for Ctrl-C.

Wrong use is a line or a few on standard error, never a traceback.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from visual_arft.errors import RunFailure, UserError

EXTRAS = {
    "train": (
        *("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors"),
        *("jaxtyping", "huggingface_hub"),
    ),
    "openai": ("openai",),
}
"""Modules that come with an extra of the package, by the extra."""

_REMEDIES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or choose another folder",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EROFS: "choose a folder that can be written",
    errno.EEXIST: "it is a file where a folder should be; choose another path",
    errno.ENOTDIR: "it is a file where a folder should be; choose another path",
    errno.EADDRINUSE: "choose another --port",
}


class WrongUse(click.ClickException):
    """A mistake of the person at the keyboard, with its remedy."""

    exit_code = 2


class Commands(click.Group):
    """Commands in the order in which they are written, ending as this module says."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs one command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            command = (error.ctx or ctx).command_path
            raise WrongUse(f"{error.format_message()} See: {command} --help") from None
        except UserError as error:
            raise WrongUse(str(error)) from None
        except ModuleNotFoundError as error:
            raise _missing(error) from None
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except OSError as error:
            raise WrongUse(_sentence(error)) from None
        except KeyboardInterrupt:
            raise Exit(130) from None


@contextmanager
def records_in(out: Path, go_on: str) -> Generator[None]:
    """Says where a run's records lie when it fails, and how it goes on after Ctrl-C."""
    try:
        yield
    except (UserError, OSError, ModuleNotFoundError, click.ClickException):
        raise
    except KeyboardInterrupt:
        click.echo(f"\nStopped. The records lie in {out}; to go on: {go_on}", err=True)
        raise Exit(130) from None
    except Exception as error:
        if not isinstance(error, RunFailure):
            traceback.print_exc()
        click.echo(f"The run failed: {error}. Its records lie in {out}.", err=True)
        raise Exit(1) from None


def _missing(error: ModuleNotFoundError) -> Exception:
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), None)
    if extra is None:
        return error
    return WrongUse(
        f"{name} is not installed, and this needs it: pip install 'visual-arft[{extra}]'"
    )


def _sentence(error: OSError) -> str:
    where = error.filename or "the file system"
    remedy = _REMEDIES.get(error.errno or 0, "check the path")
    return f"{where}: {error.strerror or error}; {remedy}"
