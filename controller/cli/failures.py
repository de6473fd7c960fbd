"""What goes wrong in a subcommand, as a message on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cni.wire import RemoteError, WireError
from dataplane.ports import ConfigError, DataplaneError

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
DEGRADED = 4


class CommandError(Exception):
    """A subcommand gives up: the message is for the operator, the code for the shell."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def say(message: str) -> None:
    """Write to stderr, each line with the program's name."""
    for line in message.splitlines():
        print(f"millrace: {line}", file=sys.stderr)


def guarded(run: Callable[[], int]) -> int:
    """Run a subcommand; errors that we know become a message and a code."""
    try:
        return run()
    except CommandError as error:
        say(str(error))
        return error.code
    except ConfigError as error:
        # A line of a file stands alone, so that an editor can jump to it.
        print(error, file=sys.stderr)
        return USAGE
    except WireError as error:
        say(str(error))
        return UNREACHABLE
    except (RemoteError, DataplaneError) as error:
        say(str(error))
        return FAILED
    except PermissionError as error:
        say(f"{error.filename or 'this'}: {error.strerror}; run it as root")
        return FAILED
    except BrokenPipeError:
        # The reader of our output left (`millrace services | head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        # A socket that somebody else answers on, a port that is taken, a full disk.
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return 130
