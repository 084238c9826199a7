"""The examples in docs/library.md run as they stand there, each in a folder and a namespace of its own."""

import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import ghost
from tests.models import make_model, text

DOCUMENT = Path(__file__).parent.parent / "docs" / "library.md"
LAYERS, D_STATE = 2, 32


def examples() -> dict[str, str]:
    """The Python blocks of the document by their headings."""
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    found = {section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL) for section in sections}
    return {heading: blocks[0] for heading, blocks in found.items() if blocks}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that the document speaks of."""
    make_model(tmp_path / "my-model", layers=LAYERS, d_state=D_STATE)
    for name, seed in (("texts/a.txt", 0), ("texts/b.txt", 1), ("held-out/a.txt", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text(1100, seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(heading: str) -> dict[str, Any]:
    """The names that the example under this heading leaves behind."""
    names: dict[str, Any] = {}
    exec(compile(examples()[heading], f"{DOCUMENT.name}: {heading}", "exec"), names)
    return names


def test_there_are_three_examples_one_to_a_section() -> None:
    assert len(examples()) == DOCUMENT.read_text().count("```python") == 3


def test_prune_a_model_in_memory_and_generate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("Prune a model in memory, and generate")
    assert (names["model"].config.state_size, names["result"].model.config.state_size) == (D_STATE, D_STATE // 2)
    loaded: Any = AutoModelForCausalLM.from_pretrained(place / "my-model-half")
    tokens = torch.arange(12)[None]
    assert loaded(tokens).logits.equal(names["result"].model(tokens).logits)
    assert capsys.readouterr().out.startswith("The state of")


def test_compare_methods_by_perplexity(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("Compare methods by perplexity on your own texts")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(names["rises"])
    assert set(names["rises"]) < set(ghost.methods()) and len({*names["rises"].values(), 0.0}) == 4


def test_look_at_the_saliency_of_every_layer(place: Path) -> None:
    names = run("Look at the saliency of every layer")
    assert 0 < names["dropped"].min() <= names["dropped"].max() < 0.5
    stored = pq.read_table(place / "channels.parquet")
    assert stored.num_rows == LAYERS * D_STATE and stored.equals(names["windows"].table())
    dropped = [
        layer.selection.saliency_gn[~layer.selection.kept_gn].square().sum() for layer in names["windows"].layers
    ]
    assert names["sums"][False].tolist() == pytest.approx([float(share) for share in dropped])


def test_every_public_name_is_in_the_document() -> None:
    written = DOCUMENT.read_text()
    assert not [name for name in ghost.__all__ if f"`{name}`" not in written and f"`ghost.{name}" not in written]
