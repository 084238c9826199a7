"""The columns of every table a run leaves behind, described in the files themselves."""

import pyarrow as pa

FORMAT_VERSION = 4
"""Of the store, the records and the tables together; raised when a reader of the old one would misread the new."""
READABLE = (3, FORMAT_VERSION)
"""Versions whose runs can be looked at: their tables have the same columns. Only runs of this version are continued."""

NAME_KEY = b"ghost.schema"
VERSION_KEY = b"ghost.version"


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={b"description": description.encode()})


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={NAME_KEY: name.encode(), VERSION_KEY: str(FORMAT_VERSION).encode()})


_CHANNEL = (
    _field("layer", pa.int32(), "number of the layer, as in the run's folder layers/"),
    _field("group", pa.int32(), "group of B and C within the mixer, from 0"),
    _field("channel", pa.int32(), "state channel n within the group, from 0, in the source checkpoint"),
)
_UNMEASURED = "null where the method does not measure it"

STATS = _schema(
    "stats",
    *_CHANNEL,
    _field(
        "controllability",
        pa.float64(),
        f"mean over tokens of the sum over heads and headdim of |H_t[n]|^2; {_UNMEASURED}",
        nullable=True,
    ),
    _field("observability", pa.float64(), f"mean over tokens of C_t[n]^2; {_UNMEASURED}", nullable=True),
    _field(
        "energy",
        pa.float64(),
        f"mean over tokens of C_t[n]^2 |H_t[n]|^2, the squared saliency; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "gradient",
        pa.float64(),
        f"mean over predicted tokens of the loss's derivative by the channel's gate; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "fisher",
        pa.float64(),
        f"sum over samples of that derivative squared, by predicted tokens; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "rank",
        pa.float64(),
        "mean over time of the channel's rank by the second-order saliency of A_log, 0 to 1; for shedder the layer's "
        f"place in the order of removal, 1 where it stays; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "coupling",
        pa.list_(pa.float64()),
        f"mean over tokens of <C_t[n] H_t[n], C_t[m] H_t[m]> for every channel m of the group; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "controllability_gramian",
        pa.list_(pa.float64()),
        f"mean over tokens of <H_t[n], H_t[m]> for every channel m of the group; {_UNMEASURED}",
        nullable=True,
    ),
    _field(
        "observability_gramian",
        pa.list_(pa.float64()),
        f"mean over tokens of C_t[n] C_t[m] for every channel m of the group; {_UNMEASURED}",
        nullable=True,
    ),
    _field("norm_b", pa.float64(), "L2 norm of the channel's B row of in_proj"),
    _field("norm_c", pa.float64(), "L2 norm of the channel's C row of in_proj"),
    _field("tokens", pa.int64(), "number of (sample, token) pairs in the means; 0 without calibration"),
)

SELECTION = _schema(
    "selection",
    *_CHANNEL,
    _field("saliency", pa.float64(), "score of the channel by the run's method; higher is kept"),
    _field("kept", pa.bool_(), "whether the pruned mixer has this channel"),
)

EVALUATION = _schema(
    "evaluation",
    _field("part", pa.string(), "what was measured: context, recall, state, decode or task"),
    _field(
        "case",
        pa.string(),
        "the case within the part: a length, a number of pairs, a precision, a batch size, a task's name",
    ),
    _field("metric", pa.string(), "name of the figure; those of tasks are named as by lm-eval"),
    _field("model", pa.string(), "dense, pruned or model; change for the difference of the two"),
    _field(
        "value",
        pa.float64(),
        "the figure, null where it is not finite; a change of perplexity, speed or bytes is a share of the dense one",
        nullable=True,
    ),
    _field("stderr", pa.float64(), "its standard error; null where there is none", nullable=True),
)

SAMPLES = _schema(
    "samples",
    _field("part", pa.string(), "what was measured: perplexity, recall or task"),
    _field("case", pa.string(), "the case within the part: pairs and distance, a task's name; empty for perplexity"),
    _field("metric", pa.string(), "name of the figure; nats are those of a window's tokens together"),
    _field("sample", pa.int32(), "index of the window, prompt or document, from 0"),
    _field("tokens", pa.int32(), "tokens of the window that are predicted; 1 for a prompt or a document"),
    _field("dense", pa.float64(), "the dense model's figure of the sample; null where it is not finite", nullable=True),
    _field("pruned", pa.float64(), "the pruned model's; null where it is not finite", nullable=True),
)

TOKENS = _schema(
    "tokens",
    _field("sample", pa.int32(), "index of the calibration sample, from 0"),
    _field("tokens", pa.list_(pa.int32()), "token ids of the sample, in order"),
)
