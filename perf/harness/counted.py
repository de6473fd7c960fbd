"""What trials count beside their metrics, for a report: where cycles and time went."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from perf.harness import stats, svg
from perf.harness.results import Measured, Results

_COUNTED = (
    ("busy_share", "PMD busy"),
    ("simple_match_hit_ratio", "simple match hits"),
    ("emc_hit_ratio", "EMC"),
    ("smc_hit_ratio", "SMC"),
    ("megaflow_hit_ratio", "megaflow"),
    ("upcalls", "upcalls"),
    ("failed_upcalls", "of these failed"),
    ("sender_away_share", "sender away"),
    ("path_refused_share", "path refused"),
    ("stolen_share", "stolen"),
)
"""What trials count, and its heading. Ratios are of all passes (perf.harness.ovscount); the last
three are of time: when the sender had no processor, when the path did not take what was due (both
at the greatest load), and what the host took of all processors over the whole trial."""


def stolen_shares(run: Results) -> list[float]:
    """Of each trial that tells, what the host took of all processors' time."""
    return [
        trial.counters["stolen_share"]
        for each in run.scenarios
        for trial in each.trials
        if "stolen_share" in trial.counters
    ]


def stolen(run: Results) -> str:
    """How much the host took meanwhile, as a sentence; empty: nobody told."""
    if not (shares := stolen_shares(run)):
        return ""
    median, most = stats.median(shares).median, max(shares)
    return f" The host took {median:.1%} of the processors' time (median; at most {most:.1%})."


def table(members: Sequence[Measured]) -> str:
    """Medians over the trials of what the data plane counted."""
    there = {key for each in members for trial in each.trials for key in trial.counters}
    heads = [(key, head) for key, head in _COUNTED if key in there]
    if not heads:
        return ""
    lines = ["<th>scenario</th>" + "".join(f'<th class="n">{head}</th>' for _, head in heads)]
    for each in members:
        cells = [f"<td>{escape(each.name)}</td>"]
        for key, _ in heads:
            found = [trial.counters[key] for trial in each.trials if key in trial.counters]
            told = svg.figure(stats.median(found).median) if found else "-"
            cells.append(f'<td class="n">{told}</td>')
        lines.append("".join(cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<h3>Where cycles and time go</h3><div class="wide"><table>{body}</table></div>'
