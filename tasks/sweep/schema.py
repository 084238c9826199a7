"""The columns of cells.parquet, described in the file itself."""

import pyarrow as pa

from artifacts.schemas import FORMAT_VERSION, NAME_KEY, VERSION_KEY

_FAILED = "null where the cell failed"
_FINITE = "null where it is not finite"
_KNOWN = "null where it is not known"


def _field(name: str, kind: pa.DataType, description: str, *, nullable: bool = False, null: str = _FAILED) -> pa.Field:
    text = f"{description}; {null}" if nullable else description
    return pa.field(name, kind, nullable=nullable, metadata={b"description": text.encode()})


CELLS = pa.schema(
    [
        _field("model", pa.string(), "model by name, without its folders"),
        _field("method", pa.string(), "method that ranked the state channels, or cut the weights"),
        _field(
            "sparsity",
            pa.float64(),
            "share of the state channels that was to be dropped",
            nullable=True,
            null="null where a cell that says what to keep failed",
        ),
        _field("recovery", pa.string(), "correction after pruning"),
        _field("calibration_length", pa.int64(), "tokens of a calibration window"),
        _field("window", pa.int64(), "tokens of an evaluation window"),
        _field("seed", pa.int64(), "seed of the calibration sample and of the method random"),
        _field("run_id", pa.string(), "run in the store's folder runs/", nullable=True),
        _field("kept", pa.int64(), "channels or directions kept, of all layers", nullable=True),
        _field("channels", pa.int64(), "state channels of the dense model, of all layers", nullable=True),
        _field("parameters", pa.int64(), "parameters of the dense model", nullable=True),
        _field("d_state_dense", pa.int64(), "state size of the dense model", nullable=True),
        _field("d_state", pa.int64(), "state size of the pruned model", nullable=True),
        _field("perplexity_dense", pa.float64(), f"perplexity of the dense model, {_FINITE}", nullable=True),
        _field("perplexity", pa.float64(), f"perplexity of the pruned model, {_FINITE}", nullable=True),
        _field(
            "rise", pa.float64(), f"rise of perplexity over the dense model, as a share of it, {_FINITE}", nullable=True
        ),
        _field("rise_stderr", pa.float64(), f"its standard error over windows in pairs, {_KNOWN}", nullable=True),
        _field(
            "over_best",
            pa.float64(),
            "perplexity over that of the best cell of this model, window and sparsity, as a share of it, over the same "
            f"windows in pairs; {_KNOWN}, and where the cell is the only one or itself the best",
            nullable=True,
        ),
        _field("over_best_stderr", pa.float64(), f"its standard error, {_KNOWN}", nullable=True),
        _field("state_bytes_dense", pa.int64(), "bytes of a sequence's recurrent state in fp32, dense", nullable=True),
        _field("state_bytes", pa.int64(), "bytes of a sequence's recurrent state in fp32, pruned", nullable=True),
        _field(
            "seconds", pa.float64(), "wall time of calibration, recovery and export, without evaluation", nullable=True
        ),
        _field(
            "peak_memory_bytes",
            pa.int64(),
            "most memory until the evaluation began: allocated on a GPU, else resident, which counts Python and its "
            "libraries",
            nullable=True,
        ),
        pa.field("error", pa.string(), metadata={b"description": b"why the cell failed; null where it did not"}),
    ],
    metadata={NAME_KEY: b"cells", VERSION_KEY: str(FORMAT_VERSION).encode()},
)  # fmt: skip
