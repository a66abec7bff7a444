"""Every exception that distgrad raises.

::

    DistgradError
    ├── ShapeError (ValueError, RuntimeError)   shapes that do not fit together
    ├── AxisError (ValueError, IndexError, RuntimeError)   an axis that the array does not have
    ├── OutOfBoundsError (IndexError, RuntimeError)   a place outside an axis
    ├── OptionError (ValueError, RuntimeError)   an argument that is none of the values offered
    ├── DTypeError (TypeError, RuntimeError)     a dtype that an operation does not take
    ├── DeviceError (ValueError, RuntimeError)  arrays on different devices, or a device that is not there
    ├── GraphError (RuntimeError)        a graph that cannot be differentiated (freed, no gradient)
    │   └── InPlaceError                 a value that backward needs was changed in place
    ├── CaptureError (RuntimeError)      a step that cannot be captured, or a replay that differs from it
    ├── StateDictError (KeyError, RuntimeError)   keys or shapes that differ between a file and a module
    ├── DataError (ValueError)           a data file or sample that is missing, truncated or of another kind
    ├── CommError (RuntimeError)         communication between ranks
    │   ├── CommMismatchError            ranks issued different collectives
    │   ├── CommTimeoutError (TimeoutError)  a collective passed its deadline
    │   └── RankFailedError              another rank died or left
    ├── WorkerError (RuntimeError)       a loader's worker process that died, was too slow, or failed
    ├── LaunchError (RuntimeError)       ranks that could not be started or that ended badly
    ├── MissingDependencyError (ImportError)   an optional package that is not installed
    ├── MissingMethodError (NotImplementedError)   a class without a method that is called
    └── DefinitionError (SyntaxError)    a function that cannot be translated to what it is to run as

Python's own classes among them are those that NumPy raises, and RuntimeError, which PyTorch raises for most,
so that what was written for either catches them. A message says where, what was expected, what came, and what
to do next::

    linear: x is [32, 128] but weight expects in_features=64; pass x with last axis 64
"""

__all__ = [
    "AxisError",
    "CaptureError",
    "CommError",
    "CommMismatchError",
    "CommTimeoutError",
    "DTypeError",
    "DataError",
    "DefinitionError",
    "DeviceError",
    "DistgradError",
    "GraphError",
    "InPlaceError",
    "LaunchError",
    "MissingDependencyError",
    "MissingMethodError",
    "OptionError",
    "OutOfBoundsError",
    "RankFailedError",
    "ShapeError",
    "StateDictError",
    "WorkerError",
]


class DistgradError(Exception):
    """The root: ``except dg.DistgradError`` catches whatever distgrad itself reports."""


class ShapeError(DistgradError, ValueError, RuntimeError):
    """Shapes that do not fit together."""


class AxisError(DistgradError, ValueError, IndexError, RuntimeError):
    """An axis that the array does not have."""


class OutOfBoundsError(DistgradError, IndexError, RuntimeError):
    """A place outside an axis."""


class OptionError(DistgradError, ValueError, RuntimeError):
    """An argument that is none of the values offered."""


class DTypeError(DistgradError, TypeError, RuntimeError):
    """A dtype that an operation does not take."""


class DeviceError(DistgradError, ValueError, RuntimeError):
    """Arrays on different devices, or a device that is not there."""


class GraphError(DistgradError, RuntimeError):
    """A graph that cannot be differentiated."""


class InPlaceError(GraphError):
    """A value that the backward pass needs was changed in place."""


class CaptureError(DistgradError, RuntimeError):
    """A step that cannot be captured, or whose replay differs from it."""


class StateDictError(DistgradError, KeyError, RuntimeError):
    """Keys or shapes that differ between a state dict and a module."""

    def __str__(self) -> str:  # KeyError would show the message quoted, on one line
        return str(self.args[0]) if self.args else ""


class DataError(DistgradError, ValueError):
    """A data file or sample that is missing, truncated or of another kind."""


class CommError(DistgradError, RuntimeError):
    """Communication between ranks failed."""


class CommMismatchError(CommError):
    """Ranks issued different collectives, or the same one with different arguments."""


class CommTimeoutError(CommError, TimeoutError):
    """A collective passed its deadline."""


class RankFailedError(CommError):
    """Another rank died or left while this one waited for it."""


class LaunchError(DistgradError, RuntimeError):
    """Ranks that could not be started, or that ended badly."""


class WorkerError(DistgradError, RuntimeError):
    """A loader's worker process died, was too slow, or failed with what cannot be carried over."""


class MissingDependencyError(DistgradError, ImportError):
    """An optional package that is not installed; the message holds the install command."""


class MissingMethodError(DistgradError, NotImplementedError):
    """A class that does not define a method that is called."""


class DefinitionError(DistgradError, SyntaxError):
    """A function that cannot be translated to what it is to run as; the message names the line."""
