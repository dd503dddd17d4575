"""The one family of errors that a user can mend."""


class JaxganError(ValueError):
    """Something the user can mend: the message says what was wrong with what, and what to do.

    The scripts print it as one line, without a traceback, and exit with `exit_code`.
    """

    exit_code = 2


class DataUnavailableError(JaxganError):
    """The data are nowhere on this machine and cannot be downloaded now."""


class NoSplitError(JaxganError):
    """The data have no such split."""


class NonFiniteError(JaxganError):
    """A loss, a parameter or an optimizer moment is no longer finite: the run has diverged."""

    exit_code = 3


class LostProcessError(JaxganError):
    """Another process of the same run has ended, or cannot be reached any more."""

    exit_code = 4
