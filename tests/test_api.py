"""ghost as a library: the same bits as `ghost run`, in memory as from a folder, and errors that say what to do."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Mamba2ForCausalLM

import ghost
from artifacts.schemas import SELECTION, STATS
from artifacts.tables import decode
from ghost.calibration.tokens import sample_windows, tokenize
from ghost.checkpoint.in_memory import in_memory
from ghost.checkpoint.source import HEAD, open_checkpoint
from ghost.evaluation.verify import verify
from tasks.run.export import provenance
from tests.by_hand import ByHand, small_settings, through_layers
from tests.models import load_stock, make_model, make_native, random_tokens, stock_logits, text

OPTIONS: dict[str, Any] = {"samples": 4, "length": 32, "round_to": 8}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one group": ({}, {}),
    "two groups, pooled": ({"n_groups": 2, "tie_word_embeddings": False}, {"policy": "pooled"}),
    "soft, by weights": ({"n_groups": 2}, {"soft": True, "method": "magnitude"}),
    "bf16, dense activations": ({"dtype": torch.bfloat16}, {"sequential": False, "sparsity": 0.75}),
    "recovered": ({}, {"recovery": "lstsq"}),
}


@dataclass(frozen=True)
class Case:
    """A model in its folder, with a text, and what to do to it."""

    folder: Path
    options: dict[str, Any]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def corpus(self) -> Path:
        return self.folder / "text.txt"

    def live(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.model)

    def prune(self, **changes: Any) -> ghost.Pruned:
        given: dict[str, Any] = {"model": self.model, "calibration": self.corpus}
        return ghost.prune(**given | self.options | changes)


def make_case(folder: Path, name: str = "one group") -> Case:
    changes, options = CASES[name]
    make_model(folder / "model", layers=2, **changes)
    (folder / "text.txt").write_text(text(400))
    return Case(folder, OPTIONS | options)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("case"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("plain"))


def tensors_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and tensor.equal(expected[name]), name


def run_of(case: Case) -> ByHand:
    run = through_layers(small_settings(case.folder, **case.options))
    run.export()
    return run


def of_all_layers(run: ByHand, name: str, schema: pa.Schema) -> pa.Table:
    keys = [getattr(run.pruning, name)(i) for i in range(run.source.layers)]
    return pa.concat_tables([decode(run.store.record(key), schema) for key in keys])


def test_it_makes_the_bytes_that_a_run_makes(case: Case, tmp_path: Path) -> None:
    run, pruned = run_of(case), case.prune()
    saved = pruned.save(tmp_path / "saved")
    written = Path(run.store.locate(run.keys.checkpoint))
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (saved / name).read_bytes() == (written / name).read_bytes(), name
    configs = [json.loads((folder / "config.json").read_text()) for folder in (saved, written)]
    assert configs[0] == configs[1]
    assert pruned.provenance["kept_channels"] == provenance(run.run, run.layers)["kept_channels"]
    mine, its = (p["ghost"]["determinants"] for p in (pruned.provenance, provenance(run.run, run.layers)))
    assert mine == {name: its[name] for name in mine} and {"checkpoint", "calibration", "method"} <= mine.keys()


def test_its_table_is_that_of_a_run(case: Case) -> None:
    run, table = run_of(case), case.prune().table()
    stats, selection = of_all_layers(run, "stats", STATS), of_all_layers(run, "selection", SELECTION)
    assert {"norm_b", "energy"} <= set(stats.column_names) & set(table.column_names)
    for stored in (stats, selection):
        for name in set(stored.column_names) & set(table.column_names):
            assert table[name].to_pylist() == stored[name].to_pylist(), name


def test_a_model_in_memory_gives_what_its_folder_gives_and_stays_as_it_is(case: Case) -> None:
    live, from_folder = case.live(), case.prune()
    before = tensors_of(live)
    pruned = case.prune(model=live, tokenizer=AutoTokenizer.from_pretrained(case.model))
    assert_same_tensors(tensors_of(pruned.model), tensors_of(from_folder.model))
    assert pruned.table().equals(from_folder.table())
    assert_same_tensors(tensors_of(live), before)
    storages = [{t.untyped_storage().data_ptr() for t in model.state_dict().values()} for model in (live, pruned.model)]
    assert not storages[0] & storages[1]
    assert isinstance(pruned.model, Mamba2ForCausalLM) and not pruned.model.training
    assert pruned.model.dtype == live.dtype


def test_what_is_saved_loads_in_stock_transformers_and_generates_the_same(case: Case, tmp_path: Path) -> None:
    pruned = case.prune(model=case.live(), tokenizer=case.model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(pruned.save(tmp_path / "saved"))
    assert_same_tensors(tensors_of(loaded), tensors_of(pruned.model))
    prompt = AutoTokenizer.from_pretrained(tmp_path / "saved")("prune the", return_tensors="pt")
    models: list[Any] = [pruned.model, loaded]
    found, expected = (model.generate(**prompt, max_new_tokens=5, do_sample=False) for model in models)
    assert found.equal(expected) and found.shape[1] > prompt["input_ids"].shape[1]
    assert loaded.lm_head.weight is loaded.backbone.embeddings.weight or not loaded.config.tie_word_embeddings
    assert pruned.model.num_parameters() == loaded.num_parameters()


def test_a_saved_model_is_verified_against_the_folder_it_was_made_from(plain: Case, tmp_path: Path) -> None:
    saved = plain.prune().save(tmp_path / "saved")
    assert verify(saved, open_checkpoint(plain.model), random_tokens(1, 40)[0])["difference"] < 1e-4


def test_a_head_of_its_own_under_a_config_that_ties_it_stays_so(plain: Case, tmp_path: Path) -> None:
    live = plain.live()
    live.lm_head.weight = torch.nn.Parameter(live.lm_head.weight.flip(0))
    pruned = plain.prune(model=live, tokenizer=plain.model)
    assert pruned.model.lm_head.weight.equal(live.lm_head.weight)
    assert open_checkpoint(pruned.save(tmp_path / "saved")).tensors.load([HEAD])[HEAD].equal(live.lm_head.weight)


def test_generation_settings_are_the_models_own(plain: Case, tmp_path: Path) -> None:
    live = plain.live()
    live.generation_config.max_new_tokens = 7
    pruned = plain.prune(model=live, tokenizer=plain.model)
    pruned.save(tmp_path / "saved")
    assert pruned.model.generation_config.max_new_tokens == 7
    assert load_stock(tmp_path / "saved").generation_config.max_new_tokens == 7


def test_texts_a_corpus_and_their_token_ids_are_the_same_calibration(plain: Case) -> None:
    tokens = tokenize(plain.model, plain.corpus.read_text())
    windows_bl = sample_windows(tokens, OPTIONS["samples"], OPTIONS["length"], seed=0)
    expected = plain.prune().table()
    assert plain.prune(calibration=str(plain.corpus)).table().equals(expected)
    assert plain.prune(calibration=iter([plain.corpus.read_text()])).table().equals(expected)
    from_ids = plain.prune(calibration=windows_bl.long())
    assert from_ids.table().equals(expected) and from_ids.tokenizer is None
    assert from_ids.layers[0].statistics.tokens == windows_bl.numel()


def test_a_native_folder_takes_a_tokenizer_and_saves_it(plain: Case, tmp_path: Path) -> None:
    pruned = plain.prune(model=make_native(tmp_path / "native", plain.model), tokenizer=plain.model)
    saved = pruned.save(tmp_path / "saved")
    assert pruned.table().equals(plain.prune().table())
    assert (
        AutoTokenizer.from_pretrained(saved)("state")["input_ids"]
        == AutoTokenizer.from_pretrained(plain.model)("state")["input_ids"]
    )


def test_progress_is_told_of_each_layer(plain: Case) -> None:
    told: list[ghost.LayerResult] = []
    pruned = plain.prune(progress=told.append)
    assert [result.layer for result in told] == [0, 1] and tuple(told) == pruned.layers
    assert repr(pruned) == "Pruned(ghost at sparsity 0.5, 2 layers, d_state 32 -> 16)"


def test_perplexity_is_that_of_stock_transformers_in_memory_and_from_a_folder(plain: Case) -> None:
    texts = [text(30, seed=1)]
    found = ghost.perplexity(plain.model, texts, window=256)
    live = ghost.perplexity(plain.live(), texts, tokenizer=plain.model, window=256)
    tokens = tokenize(plain.model, texts[0])[:257]
    expected = stock_nll(plain.live(), tokens)
    assert found == live and found.window == 256
    one_window = ghost.perplexity(plain.live(), tokens, window=256)
    assert one_window.tokens == 256 and one_window.nll == pytest.approx(expected, rel=1e-5)


def stock_nll(model: Any, tokens: Tensor) -> float:
    logits_lv = stock_logits(model, tokens[None, :-1])[0]
    return torch.nn.functional.cross_entropy(logits_lv, tokens[1:].long()).item()


def test_the_digest_of_a_model_in_memory_is_of_its_contents(plain: Case) -> None:
    live = plain.live()
    digest = in_memory(live).digest
    assert digest == in_memory(plain.live()).digest
    with torch.no_grad():
        live.backbone.layers[1].mixer.D[0] += 1
    assert in_memory(live).digest != digest
