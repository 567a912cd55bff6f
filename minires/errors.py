"""The errors that a user can mend.

Every message is one line that names the file or layer, what was expected, what came, and what to do.
The command line prints it without a traceback; in Python each is also the built-in error that one would
catch.
"""


class MiniresError(Exception):
    """Base of every error that minires raises on purpose."""

    status = 2  # the exit status of a command that it ends: bad input


class ShapeError(MiniresError, ValueError):
    """Arrays that do not fit a layer, or an image too small for a network."""


class DataError(MiniresError, ValueError):
    """A file or folder that is not the data it should be."""


class SystemFailure(DataError):
    """A file or folder that the system fails to read or write: a full disk, too many open files."""

    status = 1


class CheckpointError(MiniresError, ValueError):
    """A checkpoint that is damaged, or belongs to another architecture."""


class ConfigError(MiniresError, ValueError):
    """A setting that does not exist, or a value outside its range."""


class StateError(MiniresError, RuntimeError):
    """A call out of order, such as backward before forward."""


class DeviceError(MiniresError, RuntimeError):
    """A device that is not usable, or arrays of two devices in one operation."""


class DivergedError(MiniresError, ArithmeticError):
    """A value that is not finite, in training or in a prediction."""


class RankError(MiniresError, RuntimeError):
    """Of several ranks that train together one is missing, or cannot go on."""

    status = 1


class DisagreementError(MiniresError):
    """The fast way does not compute what the layers say."""
