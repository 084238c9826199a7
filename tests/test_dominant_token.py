"""A text of which one token makes up nearly all is warned of: in run, results, page, card, terminal and library."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ghost
from flows.summary import as_markdown, print_summary
from ghost.calibration.corpus import read_text
from ghost.calibration.tokens import dominant_token, load_tokenizer, tokenize
from ghost.errors import GhostWarning
from ghost.report.card import model_card
from tasks.run.report import summarise
from tasks.stored_run import open_existing
from tests.by_hand import small_settings, through_report
from tests.models import make_model, text
from tests.report_samples import summary

pytest_plugins = ["tests.refusals"]

TOLD = "calibration text: token 0 ('<unk>') makes up 100.0% of its 128 tokens"


@pytest.fixture(scope="module")
def unknowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose tokenizer knows two words, neither of them in the text beside it."""
    folder = tmp_path_factory.mktemp("unknowing")
    make_model(folder / "model", layers=2)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "ja": 1, "nein": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder / "model")
    (folder / "text.txt").write_text(text(400))
    return folder


@pytest.mark.parametrize(("others", "told"), [(0, True), (9, True), (10, False), (50, False)])
def test_above_nine_tenths_it_is_said(others: int, told: bool) -> None:
    tokens = torch.cat([torch.full((100 - others,), 7), torch.arange(100, 100 + others)]).int()
    for shaped in (tokens, tokens.view(4, 25)):
        assert bool(dominant_token(shaped, None, "evaluation")) == told


def test_texts_of_prose_and_code_are_far_from_it() -> None:
    tokens = tokenize("ghost/demo/model", read_text("stdlib", "evaluation"))
    most = tokens.bincount().max() / len(tokens)
    assert most < 0.3 and not dominant_token(tokens, load_tokenizer("ghost/demo/model"), "evaluation")


def test_a_run_tells_wherever_its_figures_are(unknowing: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = through_report(small_settings(unknowing))
    record = json.loads(open_existing(run.run.settings.store).record(run.keys.run))
    results = json.loads(run.store.record(run.keys.evaluation))
    of_calibration, of_evaluation = results["warnings"]
    assert of_calibration.startswith(TOLD)
    assert of_evaluation.startswith(TOLD.replace("calibration", "evaluation").partition("128")[0])
    assert record["warnings"] == results["warnings"] == run.run.warnings
    card, found = run.store.record(f"{run.keys.checkpoint}/README.md").decode(), summarise(run.run, run.evaluated)
    assert "> **Warning:** calibration text: token 0 ('\\<unk\\>') makes up 100.0%" in card
    assert TOLD in as_markdown(found, "c", "/p")
    more = {"layers": {"computed": 2, "cached": 0}, "seconds": 1.0, "checkpoint": "c", "page": "/p"}
    print_summary(found | more, as_json=False)
    assert f"warning: {TOLD}" in capsys.readouterr().out
    print_summary(found | more, as_json=True)
    assert json.loads(capsys.readouterr().out)["warnings"] == run.run.warnings


def test_an_ordinary_run_warns_of_nothing(tmp_path: Path) -> None:
    run = through_report(small_settings(tmp_path))
    assert json.loads(run.store.record(run.keys.evaluation))["warnings"] == []
    assert "**Warning:**" not in run.store.record(f"{run.keys.checkpoint}/README.md").decode()


def test_rows_that_were_left_out_are_told_too(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    rows = [json.dumps({"text": line}) for line in text(400).splitlines()]
    (tmp_path / "gaps.jsonl").write_text("\n".join(['{"text": null}', *rows]))
    run = through_report(settings.model_copy(update={"calibration": str(tmp_path / "gaps.jsonl")}))
    assert run.run.warnings == [
        "calibration text: 1 row has no text (null, or without the column) and went unread: line 1"
    ]


def test_a_card_stays_markdown_whatever_a_token_is() -> None:
    card = model_card(summary(warnings=["text: token 1 ('<script>|`#\n')"]))
    assert "> **Warning:** text: token 1 ('\\<script\\>\\|\\`\\# ')." in card


def test_the_library_warns_where_it_is_called(unknowing: Path) -> None:
    model, texts = unknowing / "model", [text(400)]
    options: dict[str, Any] = {"samples": 4, "length": 32, "round_to": 8}
    with pytest.warns(GhostWarning, match="token 0") as caught:
        ghost.prune(model, calibration=texts, **options)
        ghost.prune(model, calibration=str(unknowing / "text.txt"), **options)
        ghost.prune(model, calibration=torch.zeros(4, 32, dtype=torch.long), **options)
        ghost.perplexity(model, texts, window=128)
    assert [warning.filename for warning in caught] == [__file__] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", GhostWarning)
        ghost.perplexity("demo", [text(200)], window=128)


def test_eval_warns_in_its_table_and_its_json(unknowing: Path, execute: Any) -> None:
    argv = [
        "eval",
        str(unknowing / "model"),
        f"--text={unknowing / 'text.txt'}",
        "--contexts=,",
        "--pairs=",
        "--batch-sizes=",
    ]
    code, out, err = execute(argv)
    assert code == 0 and "warning: evaluation text: token 0 ('<unk>')" in out, err
    code, out, err = execute([*argv, "--json"])
    assert code == 0 and "warning: evaluation text" in err
    assert json.loads(out)["warnings"][0].startswith("evaluation text: token 0")
