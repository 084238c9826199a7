"""One exception tree. Every message names the thing, its value and the remedy, in one line for the command line."""


class GhostError(Exception):
    """Anything that a user can mend."""


class SettingsError(GhostError):
    """A setting, or a combination of settings, that can't work."""


class CheckpointError(GhostError):
    """A model folder that is missing, damaged, or not a Mamba2 model."""


class CorpusError(GhostError):
    """A calibration or evaluation text that can't be read or is too short."""


class VerificationError(GhostError):
    """A pruned checkpoint that does not compute what it should."""


class EvaluationError(GhostError):
    """An evaluation that hung or died; the pruned checkpoint is stored by then."""


class ProcessError(GhostError):
    """One of the processes of a run is gone; what is in the store by then is done."""


class MemoryLimitError(GhostError):
    """More memory was asked for than there is."""


class QualityGateError(GhostError):
    """A pruned model that costs more quality than the settings allow; it is kept in the store, not published."""


class GhostWarning(UserWarning):
    """Something that a run goes on with, and that its figures should not be read without."""


def reason(error: BaseException) -> str:
    """What went wrong in code of others, in one line. With its type: the message of a KeyError is a bare key."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
