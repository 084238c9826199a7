"""The model card: what a reader and the hub's YAML reader find in it."""

import yaml

from ghost.report import model_card
from tests.report_samples import NASTY, summary


def test_card_front_matter_is_yaml() -> None:
    _, front_matter, body = model_card(summary(model=NASTY)).split("---\n", 2)
    fields = yaml.safe_load(front_matter)
    assert fields["library_name"] == "transformers"
    assert "mamba2" in fields["tags"]
    assert "\n---\n" not in body


def test_card_has_figures_loading_and_limits() -> None:
    card = model_card(summary())
    assert "| Perplexity | 24.31 | 24.80 | +2.00% |" in card
    assert "| State per sequence, bytes | 100,663,296 | 37,748,736 | −62.50% |" in card
    assert "| State size (d_state) | 128 | 48 | −62.50% |" in card
    assert "| Parameters | 1,344,123,904 | 1,312,504,832 | −2.35% |" in card
    assert 'AutoModelForCausalLM.from_pretrained(".")' in card
    assert "may fall more than perplexity" in card


MIXER = {
    "family": "mamba2",
    "positions": None,
    "d_model": 2048,
    "nheads": 64,
    "headdim": 64,
    "n_groups": 1,
    "d_conv": 4,
}


def test_card_has_a_command_for_each_runtime_and_what_it_makes_of_the_state_size() -> None:
    card = model_card(summary(mixer=MIXER))
    assert "| vLLM 0.32.0 | tried | `vllm serve DIR --max-num-seqs 1024 --max-model-len 8192` |" in card
    assert "| mamba-ssm 2.3.2 | tried | `ghost convert DIR OUT --format native`, then `MambaLMHead" in card
    assert "| llama.cpp 0.5.0 | tried | `ghost gguf DIR OUT.gguf --type f16`, then `llama-server" in card
    assert "takes 2,048 tokens for the context" in card and "With a state size of 48, by the source" in card
    assert "\n- vLLM 0.32.0, Triton scan: it computes as for 64, and only memory is saved\n" in card
    assert "tuned decode" not in card


def test_card_of_a_hybrid_says_which_runtimes_know_it() -> None:
    card = model_card(summary(mixer=MIXER | {"family": "zamba2", "positions": 4096}))
    assert "| vLLM 0.32.0 | read in source | `vllm serve DIR --max-num-seqs 1024` |" in card
    assert "| llama.cpp 0.5.0 | does not know zamba2 |  |" in card and "tokens for the context" not in card


def test_card_of_a_hybrid_has_it_converted_in_words_that_llama_cpp_reads() -> None:
    card = model_card(summary(mixer=MIXER | {"family": "nemotron_h"}))
    assert "`ghost gguf DIR OUT.gguf --type f16 --converter LLAMA_CPP_FOLDER`" in card and "convert_hf" not in card


def test_card_of_directions_names_the_two_that_run_them() -> None:
    card = model_card(summary(method="balanced", mixer=MIXER | {"family": "ghost_mamba2"}))
    assert "| vLLM 0.32.0 | tried | `pip install ./plugins/vllm`, then `vllm serve DIR" in card
    assert (
        '| transformers 5.23 | tried | `AutoModelForCausalLM.from_pretrained("DIR", trust_remote_code=True)` |' in card
    )
    assert card.count("does not know projected checkpoints") == 3


def test_card_of_a_run_that_noted_no_mixer_has_no_runtimes() -> None:
    assert "## Serving it" not in model_card(summary())


def test_card_says_that_soft_pruning_shrinks_nothing() -> None:
    same = {"dense": 128, "pruned": 128}
    card = model_card(summary(soft=True, d_state=same))
    assert "set to zero; no tensor changed its shape" in card
    assert "| State size (d_state) | 128 | 128 | unchanged |" in card


def test_card_keeps_a_hostile_name_inside_code() -> None:
    card = model_card(summary(model=NASTY))
    shown = '``<script>alert("1")</script> & `a|b` # not a heading``'
    in_table = shown.replace("|", r"\|")
    assert card.count(shown) == 2
    assert f"| Model | {in_table} |" in card
    assert "<script>" not in card.replace(shown, "").replace(in_table, "")
    assert "\n# not" not in card


def test_ruined_model_keeps_readable_figures() -> None:
    card = model_card(summary(perplexity={"dense": 24.0, "pruned": 3.2e7}))
    assert "| Perplexity | 24.00 | 3.20e+07 | +133,333,233.33% |" in card


def test_card_of_directions_loads_the_code_that_the_folder_carries() -> None:
    card = model_card(summary(method="balanced"))
    assert 'from_pretrained(".", trust_remote_code=True)' in card and "No other code" not in card
    assert "state directions in 3 Mamba2 layers" in card and "`pip install ./plugins/vllm`" in card


def test_card_of_a_native_folder_is_loaded_by_mamba_ssm() -> None:
    card = model_card(summary(format="native"))
    assert 'MambaLMHeadModel.from_pretrained(".")' in card and "AutoModelForCausalLM" not in card
    assert "library_name: mamba-ssm" in card and "--format hf" in card and "No other code" not in card


def test_card_of_a_hybrid_says_which_layers_have_a_state_and_what_keeps_its_size() -> None:
    kinds = {"Mamba2": 3, "MLP": 3, "attention": 1}
    card = model_card(summary(decoder_layers=7, layer_kinds=kinds))
    assert "of the 384 state channels in the 3 of its 7 layers that have a Mamba2 state, 144 are left" in card
    assert "| Layers | `3 Mamba2, 3 MLP, 1 attention` |" in card and "- Attention keeps its caches" in card
    both = model_card(summary(decoder_layers=3, layer_kinds={"Mamba2 with attention": 3}))
    assert "state channels in 3 Mamba2 layers" in both and "- Attention keeps its caches" in both
    plain = model_card(summary(decoder_layers=3, layer_kinds={"Mamba2": 3}))
    assert "state channels in 3 Mamba2 layers" in plain and "caches" not in plain and "| Layers |" not in plain


def test_card_says_what_did_not_shrink() -> None:
    unstructured, layers = model_card(summary(method="wanda")), model_card(summary(method="shedder"))
    assert "# `demo`, 62.5% of its weights of B and C zeroed" in unstructured
    assert "the recurrent state is as large as before" in unstructured
    assert "# `demo`, 62.5% of its state silenced" in layers and "no tensor changed its shape" in layers


def test_card_does_not_blame_a_calibration_text_that_was_not_read() -> None:
    assert "chosen on the calibration text" in model_card(summary())
    assert "chosen on the calibration text" not in model_card(summary(method="magnitude"))
