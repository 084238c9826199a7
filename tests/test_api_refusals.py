"""What `ghost.prune` refuses, in one line that names the thing, its value and the remedy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ghost
from tests.test_api import Case, make_case


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("plain"))


def with_nan(live: Any) -> Any:
    live.backbone.layers[1].mixer.D.data[0] = torch.nan
    return live


def with_a_stranger(live: Any) -> Any:
    live.backbone.layers[0].adapter = torch.nn.Linear(2, 2)
    return live


LIVE_REFUSALS: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "no tokenizer": (lambda live: {"model": live, "tokenizer": None}, "tokenizer is None.* give one, or token ids"),
    "no language model": (
        lambda live: {"model": live.backbone},
        "model is a Mamba2Model; give a causal",
    ),
    "not here": (lambda live: {"model": live.to("meta")}, "is on device meta; load the model whole"),
    "integers": (lambda live: {"model": quantized(live)}, "is torch.int8; ghost reads .* load it unquantized"),
    "NaN": (lambda live: {"model": with_nan(live)}, "layers.1.mixer.D in the model in memory has NaN"),
    "stranger": (lambda live: {"model": with_a_stranger(live)}, "unexpected tensor backbone.layers.0.adapter"),
}


def quantized(live: Any) -> Any:
    live.lm_head.weight = torch.nn.Parameter(live.lm_head.weight.to(torch.int8), requires_grad=False)
    return live


@pytest.mark.parametrize("name", LIVE_REFUSALS)
def test_a_model_in_memory_that_cannot_be_pruned_is_refused_in_one_line(plain: Case, name: str) -> None:
    make, message = LIVE_REFUSALS[name]
    with pytest.raises(ghost.GhostError, match=message) as refused:
        plain.prune(**{"tokenizer": plain.model} | make(plain.live()))
    assert "\n" not in str(refused.value)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "sparsity": ({"sparsity": 1.5}, "sparsity: 1.5 is outside"),
    "method": ({"method": "luck"}, "method 'luck' is unknown; choose one of ghost"),
    "unknown option": ({"sample": 4}, "sample=4 is no option of prune; choose from batch_tokens, device"),
    "an option of the pipeline": ({"store": "s3://bucket/x"}, "store='s3://bucket/x' is no option of prune"),
    "a value of another type": ({"samples": "many"}, "samples: .*'many'"),
    "no such folder": ({"model": "./nowhere"}, "model ./nowhere: no such folder"),
    "no such text": ({"calibration": "nowhere.txt"}, "corpus nowhere.txt: no such file"),
    "no texts": ({"calibration": []}, "calibration texts: 0 given, none with any content"),
    "no strings": ({"calibration": ["a", 1]}, "calibration text 1 is a int; give strings"),
    "short texts": ({"calibration": ["a b c"]}, "too short for 4 windows of 32"),
    "ids of one window": ({"calibration": torch.ones(8).int()}, r"torch.int32 of shape \(8,\); .* \(samples, length\)"),
    "ids that are no integers": ({"calibration": torch.ones(2, 8)}, "torch.float32 of shape"),
    "padding": ({"calibration": torch.full((2, 8), -100)}, "hold -100; give ids of 0 and more"),
    "another vocabulary": ({"calibration": torch.full((2, 8), 2**40)}, "gives token 1099511627776"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_work_is_refused_in_one_line(plain: Case, name: str) -> None:
    changes, message = REFUSALS[name]
    with pytest.raises(ghost.GhostError, match=message) as refused:
        plain.prune(**changes)
    assert "\n" not in str(refused.value)


def test_a_folder_with_something_in_it_is_not_written_over(plain: Case) -> None:
    with pytest.raises(ghost.SettingsError, match="is there already and not empty; give a new one"):
        plain.prune().save(plain.model)
