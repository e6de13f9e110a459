"""docs/gate.md and its plot, from the figures of bench/gate.py: what stands above the mark is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MARK = "<!-- below: written by bench/gate.py -->"
START = 0.92


def write(docs: Path, chains: dict[str, Any], figures: dict[str, Any]) -> None:
    """Put the figures below the mark of docs/gate.md, and the plot beside it."""
    page = docs / "gate.md"
    above = page.read_text(encoding="utf-8").split(MARK)[0]
    page.write_text(above + MARK + "\n\n" + "\n".join(_lines(figures)) + "\n", encoding="utf-8")
    _plot(docs / "gate.svg", chains, figures)


def _lines(figures: dict[str, Any]) -> list[str]:
    sham, power = figures["sham"], figures["power"]
    lines = [
        f"`python bench/gate.py`, {figures['minutes']:.0f} minutes on 2 cores. Each chain: one test cohort of 400 "
        "patients, 30 % positive, the first champion's true AUROC 0.92, 20 retrainings within a year.",
        "",
        "| challengers, and the rule that promotes | chains | promote at least once | reported minus true AUROC at the "
        "end | true AUROC at the end | end 0.02 or more under the anchor |",
        "|---|---|---|---|---|---|",
    ]
    for name, told in figures["chains"].items():
        count = told["chains"]
        lines.append(f"| {name} | {count} | {_share(told['promoting'], count)} | {told['optimism']:+.4f} | "
                     f"{told['true']:.3f} | {_share(told['under'], count)} |")  # fmt: skip
    lines += [
        "",
        "*equal*: every challenger's true AUROC is the champion's. *worse*: it is the champion's and a normal draw of "
        "mean -0.01 and deviation 0.01 more. Brackets: 95 % interval of the share (Clopper and Pearson).",
        "",
        f"Sham challengers, fitted to permuted labels: {sham[0]} of {sham[1]} refused, {sham[2]} of them by fail.",
        "",
        "Gain in true AUROC that passes in 80 % of cohorts, all checks of the gate together "
        f"({figures['repeats']} cohorts for each step of a search by halves):",
        "",
        "| test patients | " + " | ".join(_powered(name) for name in power) + " |",
        "|---" * (1 + len(power)) + "|",
    ]
    for place, size in enumerate(figures["sizes"]):
        cells = [f"{gains[place]:.3f}" if gains[place] is not None else "none" for gains in power.values()]
        lines.append(f"| {size:,} | " + " | ".join(cells) + " |")
    return [*lines, "", "![Three plots of the simulations](gate.svg)"]


def _powered(name: str) -> str:
    start, _, look = name.partition(" look ")
    return f"from {start}, look {look} of the year"


def _share(share: float, count: int) -> str:
    """A share with its exact interval."""
    from scipy.stats import binomtest

    edges = binomtest(round(share * count), count).proportion_ci(0.95)
    return f"{100 * share:.1f} % ({100 * edges.low:.1f} to {100 * edges.high:.1f})"


def _plot(path: Path, chains: dict[str, Any], figures: dict[str, Any]) -> None:
    """Optimism over retrainings, truth over retrainings, gain needed by size of the cohort."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gate", "font.size": 9}
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.8))
    steps = np.arange(1, next(iter(chains.values())).shape[1] + 1)
    for name, told in chains.items():
        kind, _, rule = name.partition(", ")
        if kind == "equal":
            left.plot(steps, (told[:, :, 1] - told[:, :, 0]).mean(axis=0), label=rule)
        else:
            middle.plot(steps, 100 * (told[:, :, 0] <= START - 0.02).mean(axis=0), label=rule)
    left.set(title="Equal challengers: AUROC reported too high by", xlabel="retraining")
    middle.set(title="Worse challengers: % of chains 0.02 under the anchor", xlabel="retraining", ylim=(-2, 102))
    for name, gains in figures["power"].items():
        known = [(size, gain) for size, gain in zip(figures["sizes"], gains, strict=True) if gain is not None]
        right.plot(*zip(*known, strict=True), marker="o", label=_powered(name))
    right.set(title="Gain in AUROC that passes in 80 % of cohorts", xlabel="test patients", xscale="log")
    right.set_xticks(figures["sizes"], [str(size) for size in figures["sizes"]])
    right.minorticks_off()
    for axes in (left, middle, right):
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
