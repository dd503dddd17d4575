"""Errors that a user can fix."""


class JaxganError(ValueError):
    """An error that a user can fix: the message says what is wrong and what to do.

    The scripts print it as one line, without a traceback, and exit with `exit_code`.
    """

    exit_code = 2


class DataUnavailableError(JaxganError):
    """The data are not on this machine and cannot be downloaded."""


class NoSplitError(JaxganError):
    """The data have no such split."""


class NonFiniteError(JaxganError):
    """The run has diverged: a loss, a parameter or an optimizer moment is not finite."""

    exit_code = 3


class LostProcessError(JaxganError):
    """Another process of the same run has ended, or cannot be reached any more."""

    exit_code = 4
