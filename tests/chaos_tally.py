"""What tormented runs came to."""

from collections import Counter
from dataclasses import dataclass, field

STORES = ("local", "s3")


@dataclass
class Tally:
    """Counts by (what, kind of store), and what must not be: each a line of its own."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    moments: Counter[tuple[str, str]] = field(default_factory=Counter)
    continued: Counter[tuple[str, str]] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    recomputed: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)
    orphans: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def struck(self) -> int:
        return self.kills.total()

    @property
    def clean(self) -> bool:
        """Whether nothing happened that must not happen."""
        return not (self.recomputed.total() or self.mismatches.total() or self.orphans.total())

    def table(self) -> str:
        """The tally in Markdown."""
        rows = [("SIGKILLs", Counter(self._by_store(self.kills)))]
        for counts, before in ((self.kills, "of them to"), (self.moments, "of them with"), (self.continued, "then")):
            names = dict.fromkeys(name for name, _ in counts)
            rows += [(f"{before} {name}", Counter({s: counts[name, s] for s in STORES})) for name in names]
        rows += [("runs finished", self.finished), ("layers taken from the store by a next start", self.resumed)]
        rows += [("**layers computed twice**", self.recomputed), ("**objects that differ**", self.mismatches)]
        rows += [("**processes left behind**", self.orphans)]
        head = ["| | local | s3 | all |", "|---|---|---|---|"]
        return "\n".join(head + [f"| {name} | {c['local']} | {c['s3']} | {c.total()} |" for name, c in rows])

    def _by_store(self, counts: Counter[tuple[str, str]]) -> Counter[str]:
        return Counter({store: sum(n for (_, at), n in counts.items() if at == store) for store in STORES})
