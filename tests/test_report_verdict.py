"""The verdict in plain words, from figures on either side of each threshold."""

from typing import Any

import pytest

from ghost.evaluation.rows import measured
from ghost.report.verdict import headline, verdict
from tests.report_samples import summary

Rows = list[dict[str, Any]]


def run(rise: float = 0.01, left: float = 0.5, **more: Any) -> dict[str, Any]:
    sizes = {"dense": 4096, "pruned": round(4096 * left)}
    return summary(perplexity={"dense": 20.0, "pruned": 20.0 * (1 + rise)}, state_bytes=sizes, **more)


def recall(pairs: int, dense: float, pruned: float, metric: str = "accuracy", error: float | None = None) -> Rows:
    return measured(
        "recall", f"{pairs} pairs, distance 0", metric, {"dense": (dense, error), "pruned": (pruned, error)}
    )


def task(dense: float, pruned: float, error: float | None = 0.001, **more: Any) -> dict[str, Any]:
    values = {"value": {"dense": dense, "pruned": pruned}, "stderr": {"dense": error, "pruned": error}}
    named = {"task": "piqa", "metric": "acc", "main": True, "higher_is_better": True, "loss": dense - pruned}
    return named | values | more


@pytest.mark.parametrize(
    ("left", "rise", "words"),
    [
        (0.5, 0.012, "Half the state, +1.2% perplexity"),
        (0.0625, 0.5, "A sixteenth of the state, +50.0% perplexity"),
        (0.375, -0.001, "37.5% of the state, −0.1% perplexity"),
        (1, 0, "A state as large as before, +0.0% perplexity"),
    ],
)
def test_headline(left: float, rise: float, words: str) -> None:
    assert headline(run(rise, left)) == words


@pytest.mark.parametrize(
    ("rise", "words"),
    [
        (-0.01, "even fell"), (0.0, "Next to nothing"), (0.0049, "Next to nothing"), (0.0051, "small price"),
        (0.021, "will be noticed"), (0.11, "high price"), (0.31, "Too much was lost"), (float("inf"), "Too much"),
        (float("nan"), "Too much"),
    ],
)  # fmt: skip
def test_price_has_words_for_every_rise(rise: float, words: str) -> None:
    assert words in verdict(run(rise))[0]


def test_a_rise_within_its_noise_is_told_as_none() -> None:
    words = "No difference beyond noise on this text, which tells it to within 2.02%."
    assert verdict(run(0.01, nll_change_stderr=0.01))[0] == words
    assert verdict(run(-0.01, nll_change_stderr=0.01))[0].startswith("No difference beyond noise")
    assert "small price" in verdict(run(0.01, nll_change_stderr=0.004))[0]
    assert "Too much" in verdict(run(float("nan"), nll_change_stderr=None))[0]


def test_recovery_is_advised_where_it_was_not_tried() -> None:
    for rise in (0.0051, 0.02, 0.2, 2.0, float("nan")):
        assert "--recovery fit" in verdict(run(rise))[1]
    tried, noise = run(0.2, recovery="lstsq"), run(0.01, nll_change_stderr=0.01)
    for found in (tried, noise, run(0.2, method="wanda"), run(0.0049), run(-0.1)):
        assert not any("--recovery" in words for words in verdict(found))


def test_recall_that_was_not_measured_is_not_promised() -> None:
    assert "not measured" in verdict(run())[-1]


def test_recall_names_the_pairs_up_to_which_it_held_and_the_worst_case() -> None:
    rows = recall(4, 0.9, 0.89) + recall(64, 0.8, 0.4) + recall(256, 0.5, 0.3)
    told = verdict(run(rows=rows))[-1]
    assert "beyond 4 pairs" in told and "64 pairs, distance 0: 80.0% → 40.0%" in told and "retrieval" in told


def test_recall_that_drops_at_once_or_not_at_all() -> None:
    assert "at 4 pairs already" in verdict(run(rows=recall(4, 0.9, 0.5)))[-1]
    assert "held, up to the 64 pairs" in verdict(run(rows=recall(4, 0.9, 0.9) + recall(64, 0.8, 0.81)))[-1]


def test_loss_within_its_error_is_none() -> None:
    assert "held" in verdict(run(rows=recall(4, 0.9, 0.8, error=0.05)))[-1]
    assert "drops" in verdict(run(rows=recall(4, 0.9, 0.8, error=0.01)))[-1]


def test_choice_stands_in_for_an_accuracy_of_nothing() -> None:
    rows = recall(4, 0.01, 0.0) + recall(4, 0.9, 0.5, "choice")
    assert "4 pairs, distance 0: 90.0% → 50.0%" in verdict(run(rows=rows))[-1]
    rows = recall(4, 0.01, 0.0) + recall(4, 0.26, 0.1, "choice")  # chance is 0.25
    assert "says nothing" in verdict(run(rows=rows))[-1]


def test_tasks_that_got_worse_come_worst_first() -> None:
    scores = [task(0.7, 0.65), task(0.6, 0.3, task="arc"), task(0.6, 0.1, main=False, metric="other")]
    assert verdict(run(tasks={"scores": scores}))[-1] == "Worse on arc (acc 0.6 → 0.3); piqa (acc 0.7 → 0.65)."


def test_task_without_clear_loss() -> None:
    scores = [task(0.7, 0.695), task(0.7, 0.65, error=0.04, task="arc")]
    assert verdict(run(tasks={"scores": scores}))[-1] == "No clear loss on piqa, arc."


def test_a_loss_over_the_same_documents_goes_by_its_pairs() -> None:
    assert "Worse on piqa" in verdict(run(tasks={"scores": [task(0.7, 0.65, error=0.04, loss_stderr=0.01)]}))[-1]
    assert "No clear loss" in verdict(run(tasks={"scores": [task(0.7, 0.65, error=0.001, loss_stderr=0.04)]}))[-1]


def test_task_judged_by_perplexity_loses_by_a_share() -> None:
    low = {"higher_is_better": False, "metric": "word_perplexity"}
    assert verdict(run(tasks={"scores": [task(20, 20.1, None, loss=0.005, **low)]}))[-1].startswith("No clear loss")
    assert verdict(run(tasks={"scores": [task(20, 22, None, loss=0.1, **low)]}))[-1].startswith("Worse on piqa")


@pytest.mark.parametrize(
    ("method", "words"), [("wanda", "saves no state"), ("sparsegpt", "saves no state"), ("shedder", "whole layers")]
)
def test_methods_that_do_not_shrink_the_state_say_so(method: str, words: str) -> None:
    assert words in verdict(run(left=1, method=method))[0]
    assert not any(words in sentence for sentence in verdict(run()))
