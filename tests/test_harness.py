"""lm-eval for real, offline: bundled tasks over local files, their agreement with lm-eval's own, and refusals."""

import json
import math
import os
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lm_eval.tasks
import pytest
import torch
from lm_eval.tasks import TaskManager
from lm_eval.tasks.wikitext import preprocess_wikitext as stock

from ghost.calibration.tokens import load_tokenizer
from ghost.checkpoint.source import DEMO, open_checkpoint
from ghost.errors import EvaluationError, SettingsError
from ghost.evaluation.decode import stock_model
from ghost.evaluation.harness import DEFAULT, benchmark_manager, parse_benchmarks, run_benchmarks
from ghost.evaluation.rows import of_benchmarks, side_by_side
from ghost.evaluation.stack_module import StackModule
from ghost.evaluation.tasks.local_files import detokenized, pages, passages, word_and_byte_perplexity
from tests.models import make_model, open_stack

DATA = Path(__file__).parents[2] / "shared" / "data"
PAGE = (
    " = {0} = \n \n {0} is a small @-@ town film ( 1 @,@ 200 people ) . \n \n = = Plot = = \n \n It 's ' old ' ; A . \n"
)
PASSAGE = {"text": "He gave her the stone, and she put the little stone back where it came from"}


@pytest.fixture(scope="module")
def wikitext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first pages of WikiText-2 where it lies beside the repository, each cut to its first paragraphs; otherwise
    pages of the same form."""
    source = DATA / "wikitext-2" / "test.txt"
    found = pages({"local_wikitext": str(source)})["test"]["page"][:6] if source.exists() else None
    path = tmp_path_factory.mktemp("wikitext") / "test.txt"
    path.write_text("".join(page[:400].rpartition("\n")[0] + "\n" for page in found or map(PAGE.format, "ABCDEF")))
    return path


@pytest.fixture(scope="module")
def lambada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, path = DATA / "lambada_test.jsonl", tmp_path_factory.mktemp("lambada") / "test.jsonl"
    lines = source.read_text().split("\n")[:3] if source.exists() else [json.dumps(PASSAGE)] * 3
    path.write_text("\n".join(lines) + "\n")
    return path


def evaluated(spec: str, folder: Path = DEMO, model: Any = None, **settings: Any) -> dict[str, Any]:
    tasks = parse_benchmarks(spec, allow_code=False)
    model = model or stock_model(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    options = {"limit": 2, "seed": 0, "batch": 1} | settings
    return run_benchmarks(model, load_tokenizer(folder), tasks, manager=benchmark_manager(tasks), **options)


def test_pages_detokenizing_and_counts_are_those_of_lm_evals_own_task():
    texts = [PAGE.format("Some Page"), "a ( b ) [ c ] { d } ' e ' ° N s ' = = = =", "one @.@ two ! ? , : x 's \n y"]
    if (source := DATA / "wikitext-2" / "test.txt").exists():
        texts += pages({"local_wikitext": str(source)})["test"]["page"]
        assert len(texts) > 50 and "".join(texts[3:]).strip() == source.read_text(encoding="utf-8").strip()
    for text in texts:
        assert detokenized({"page": text}) == stock.wikitext_detokenizer({"page": text})
        assert word_and_byte_perplexity({"page": text}, [-5.0]) == stock.process_results({"page": text}, [-5.0])


def test_a_file_is_split_at_headings_of_the_first_level_only(tmp_path: Path):
    (tmp_path / "wiki").write_text("".join(map(PAGE.format, ["A", "Bee Gees"])))
    found = pages({"local_wikitext": str(tmp_path / "wiki")})["test"]["page"]
    assert [page.split("\n")[0].strip() for page in found] == ["= A =", "= Bee Gees ="]
    assert all(page.count("= = Plot = =") == 1 for page in found)


@torch.inference_mode()
def test_word_and_byte_perplexity_equal_the_direct_computation(tmp_path: Path, wikitext: Path):
    folder = make_model(tmp_path / "model", layers=1)
    found = evaluated(f"local_wikitext:{wikitext}", folder)["local_wikitext"]
    model, tokenizer = stock_model(open_checkpoint(folder), torch.device("cpu"), torch.float32), load_tokenizer(folder)
    documents = pages({"local_wikitext": str(wikitext)})["test"]["page"][:2]
    total = 0.0
    for document in documents:
        ids = [tokenizer.eos_token_id, *tokenizer(detokenized({"page": document}))["input_ids"]]
        log_lv = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        total += log_lv.gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
    words = sum(len(re.split(r"\s+", document)) for document in documents)
    size = sum(len(document.encode()) for document in documents)
    values = {name: figure["value"] for name, figure in found["metrics"].items()}
    assert found["samples"] == 2
    assert values["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert values["byte_perplexity"] == pytest.approx(math.exp(-total / size), rel=1e-4)
    assert values["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-4)


def test_lambada_on_the_demo_has_errors_and_is_the_same_twice_with_nothing_on_stdout(
    lambada: Path, capfd: pytest.CaptureFixture[str]
):
    first, again = (evaluated(f"local_lambada:{lambada}", limit=3) for _ in range(2))
    assert first == again and first["local_lambada"]["samples"] == 3
    figures = first["local_lambada"]["metrics"]
    assert figures["perplexity"]["value"] > 1 and figures["perplexity"]["stderr"] > 0
    assert 0 <= figures["acc"]["value"] <= 1 and figures["acc"]["stderr"] is not None
    assert capfd.readouterr().out == "" and "DISABLE_MULTIPROC" not in os.environ


def test_a_stack_is_measured_as_the_stock_model_is(tmp_path: Path, lambada: Path, wikitext: Path):
    folder, spec = make_model(tmp_path / "model"), f"local_lambada:{lambada},local_wikitext:{wikitext}"
    stock, found = evaluated(spec, folder), evaluated(spec, folder, StackModule(open_stack(folder)), batch=2)
    for task, scores in stock.items():
        for metric, figure in scores["metrics"].items():
            assert found[task]["metrics"][metric]["value"] == pytest.approx(figure["value"], rel=1e-4)


def test_a_stack_generates_nothing():
    with pytest.raises(NotImplementedError, match=r"not measured with --state-dtype; leave them out$"):
        StackModule(open_stack(DEMO)).generate()


def test_documents_are_those_that_a_figure_is_the_mean_of(lambada: Path) -> None:
    metrics = evaluated(f"local_lambada:{lambada}", limit=3)["local_lambada"]["metrics"]
    assert len(metrics["acc"]["documents"]) == 3 and fmean(metrics["acc"]["documents"]) == metrics["acc"]["value"]
    assert metrics["perplexity"]["documents"] == [], "it is no mean of what documents got"


@pytest.mark.parametrize(("better", "scale"), [(True, 1.0), (False, 2.0)])
def test_the_loss_of_a_task_has_the_error_of_its_pairs(better: bool, scale: float) -> None:
    documents = {"dense": [1.0, 3.0, 2.0, 2.0], "pruned": [1.0, 2.5, 1.5, 2.0]}
    found = {
        name: {"task": {"metrics": {"m": {"value": fmean(of), "stderr": 0.4, "higher_is_better": better,
                                          "documents": of}}, "main": "m", "samples": 4, "version": 1}}
        for name, of in documents.items()
    }  # fmt: skip
    (score,), rows = side_by_side(found), list(of_benchmarks(found))
    assert rows[-1]["model"] == "change" and rows[-1]["stderr"] == pytest.approx(stdev([0, -0.5, -0.5, 0]) / 2)
    assert score["loss_stderr"] == pytest.approx(rows[-1]["stderr"] / scale)
    for of in found.values():
        of["task"]["metrics"]["m"]["documents"] = []
    assert side_by_side(found)[0]["loss_stderr"] is None and list(of_benchmarks(found))[-1]["stderr"] is None


def test_passages_may_hold_any_line_separator_of_unicode(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "one\u2028two"}\n\n{"text": "three"}\n')
    assert passages({"local_lambada": str(tmp_path / "a.jsonl")})["test"]["text"] == ["one\u2028two", "three"]


def test_the_default_list_leaves_tasks_that_run_code_out_unless_they_are_allowed():
    assert parse_benchmarks("default", allow_code=True).names == DEFAULT
    assert parse_benchmarks("piqa, default", allow_code=False).names == (
        "piqa",
        *(n for n in DEFAULT[:-1] if n != "piqa"),
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [("humaneval", "tasks: humaneval runs code that the model writes; allow it with --allow-code"),
     ("local_wikitext", "tasks: local_wikitext reads a local file; give it as local_wikitext:PATH/"),
     ("local_lambada:/none", "tasks: local_lambada: no file /none; give one such as lambada_test.jsonl"),
     ("piqa:/none", "tasks: piqa takes no file, only local_wikitext and local_lambada do; leave :/none out")],
)  # fmt: skip
def test_a_list_that_cannot_work_is_refused(spec: str, message: str):
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}"):
        parse_benchmarks(spec, allow_code=False)


def test_a_data_set_that_cannot_be_had_and_a_file_that_is_none_are_one_line(tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"^lm-eval could not run local_lambada \(KeyError: [^\n]*local files$"):
        evaluated(f"local_lambada:{tmp_path / 'bad.jsonl'}", make_model(tmp_path / "model"))


def test_an_unknown_task_is_refused(monkeypatch: pytest.MonkeyPatch):
    def without_its_own_tasks(include_defaults: bool, **options: Any) -> TaskManager:  # to read those takes 10 seconds
        return TaskManager(include_defaults=not include_defaults, **options)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", without_its_own_tasks)
    with pytest.raises(
        SettingsError, match=r"^tasks: lm-eval knows no task 'helaswag'; `lm-eval ls tasks` lists them$"
    ):
        benchmark_manager(parse_benchmarks("helaswag", allow_code=False))


def test_lm_eval_has_every_task_of_the_default_list():
    folders = ("lambada", "hellaswag", "piqa", "arc", "winogrande", "mmlu/default", "humaneval")
    root = Path(lm_eval.tasks.__file__).parent
    manager = TaskManager(include_path=[root / folder for folder in folders], include_defaults=False)
    assert set(DEFAULT) <= set(manager.all_tasks)
