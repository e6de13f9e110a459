"""Writes docs/explanation/training-gate.md below its mark, and its plot, from the figures of gate_simulation.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MARK = "<!-- below: written by bench/promotion/gate_simulation.py -->"


def write(docs: Path, figures: dict[str, Any]) -> None:
    """Write the figures below the mark of docs/explanation/training-gate.md, and the plot next to the page."""
    page = docs / "training-gate.md"
    above = page.read_text(encoding="utf-8").split(MARK)[0]
    page.write_text(above + MARK + "\n\n" + "\n".join(_lines(figures)) + "\n", encoding="utf-8")
    _plot(docs / "training-gate.svg", figures)


def _chain_figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in sorted(figures.items()) if isinstance(figure, dict)}


def _gain_by_size(figures: dict[str, Any]) -> dict[tuple[str, str], dict[int, float | None]]:
    """(Champion's AUROC, look of the year) -> gain by size of the cohort."""
    gains: dict[tuple[str, str], dict[int, float | None]] = {}
    for name, gain in figures.items():
        if name.startswith("power "):
            _, start, look, size = name.split()
            gains.setdefault((start, look), {})[int(size)] = gain
    return gains


def _lines(figures: dict[str, Any]) -> list[str]:
    sham, power = figures["sham"], _gain_by_size(figures)
    lines = [
        "## Simulations",
        "",
        "`python bench/promotion/gate_simulation.py`. Each chain: one test cohort of 400 patients, 30 % positive, the "
        "first champion's true AUROC 0.92, 20 retrainings within a year; 400 bootstrap draws instead of 2000.",
        "",
        "| challengers, and the rule that promotes | chains | promote at least once | reported minus true AUROC at the "
        "end | true AUROC at the end | end 0.02 or more under the anchor |",
        "|---|---|---|---|---|---|",
    ]
    for name, chain in _chain_figures(figures).items():
        count = chain["chains"]
        lines.append(
            f"| {name} | {count} | {_share_text(chain['promoting'], count)} | {chain['optimism']:+.4f} | "
            f"{chain['true']:.3f} | {_share_text(chain['under'], count)} |"
        )
    lines += [
        "",
        "*equal*: every challenger's true AUROC is the champion's. *worse*: it is the champion's plus a normal draw of "
        "mean -0.01 and deviation 0.01. In brackets the 95 % interval of the share (Clopper and Pearson).",
        "",
        f"Sham challengers, fitted to permuted labels: {len(sham) - sham.count('pass')} of {len(sham)} refused, "
        f"{sham.count('fail')} of them by fail.",
        "",
        "Gain in true AUROC that passes in 80 % of cohorts, with every check of the gate. Each step of the bisection "
        'uses some dozens of cohorts, so the third decimal is rough. "none": not even an AUROC of 0.9995 passes.',
        "",
        "| test patients | " + " | ".join(_power_label(*name) for name in power) + " |",
        "|---" * (1 + len(power)) + "|",
    ]
    for size in sorted({size for gains in power.values() for size in gains}):
        lines.append(f"| {size:,} | " + " | ".join(_gain_text(gains.get(size, 0.0)) for gains in power.values()) + " |")
    return [*lines, "", "![Optimism, degraded chains and required gain](training-gate.svg)"]


def _gain_text(gain: float | None) -> str:
    return "none" if gain is None else f"{gain:.3f}" if gain else "not run"


def _power_label(start: str, look: str) -> str:
    return f"from {start}, look {look} of the year"


def _share_text(share: float, count: int) -> str:
    """A share with its exact 95 % interval."""
    from scipy.stats import binomtest

    edges = binomtest(round(share * count), count).proportion_ci(0.95)
    return f"{100 * share:.1f} % ({100 * edges.low:.1f} to {100 * edges.high:.1f})"


def _plot(path: Path, figures: dict[str, Any]) -> None:
    """Plot the optimism of equal challengers, degraded chains of worse ones, and required gain by cohort size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gate", "font.size": 8}
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 3.4), width_ratios=(1, 1, 1.4))
    chains = _chain_figures(figures)
    for axes, kind, name, scale in ((left, "equal", "optimism", 1), (middle, "worse", "under", 100)):
        rows = {label: scale * chain[name] for label, chain in chains.items() if label.startswith(kind)}
        bars = axes.barh(
            [label.replace(", ", ",\n").replace("to the", "\nto the").replace("with", "\nwith") for label in rows],
            list(rows.values()),
            height=0.5,
        )
        axes.bar_label(bars, fmt="%.4f" if kind == "equal" else "%.0f %%", padding=3)
        axes.margins(x=0.2)
    left.axvline(0.005, linestyle=":", color="grey")
    left.set_title("AUROC reported too high, 20 retrainings")
    middle.set_title("chains 0.02 under the anchor")
    for name, gains in _gain_by_size(figures).items():
        points = sorted((size, gain) for size, gain in gains.items() if gain is not None)
        right.plot(*zip(*points, strict=True), marker="o", label=_power_label(*name))
    sizes = sorted({size for gains in _gain_by_size(figures).values() for size in gains})
    right.set(xscale="log", xlabel="test patients", ylim=(0, None))
    right.set_title("gain in AUROC that passes in 80 % of cohorts")
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.minorticks_off()
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
