"""Mutation testing: changes modules one point at a time, runs their tests, and prints the surviving mutants.

    python bench/mutation/run_mutation_tests.py                        all modules, under an hour on 2 cores
    python bench/mutation/run_mutation_tests.py training/promotion/gate.py     some modules
    python bench/mutation/run_mutation_tests.py --survivors lineage/           only mutants that survived last time
    python bench/mutation/run_mutation_tests.py --all training/promotion/gate_checks.py    every mutant, no sample

mutants.toml lists the modules with their tests, the aimed mutants with the promise that each breaks, and the mutants
that may survive: `equivalent` ones change no observable behaviour, `accepted` ones do and have a reason. A seeded
sample of each module's single-point mutants (mutation_operators.py) is tried too. A mutant is written into a copy of
the tree, never into the tree itself. The module's tests run there in a fork of this process, which has imported the
libraries. A mutant counts as killed if a test fails, or if the tests exceed ten times their usual time plus 20 s.
Results are stored in var/mutation.jsonl under the hashes of module, mutant and tests, so an interrupted run continues.
The exit code is 1 if more than 5 % of the non-equivalent mutants survive, or if a listed text is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tomllib
from pathlib import Path
from typing import Any

import mutation_operators
from trials import Trial, run

ROOT = Path(__file__).resolve().parents[2]
SEED, SAMPLE, LIMIT = 20261201, 40, 0.05  # LIMIT: share of mutants that may survive
COLUMNS = ("sample", "aimed", "killed", "survived", "equivalent")
Modules = dict[str, dict[str, list[Any]]]


def main() -> int:
    """Run the untried mutants, and report on all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths, or prefixes of paths; default: all")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="sampled mutants per module")
    parser.add_argument("--all", action="store_true", help="every mutant instead of a sample")
    parser.add_argument("--survivors", action="store_true", help="only mutants that survived in their last run")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "mutation.jsonl", help="file of the results")
    options = parser.parse_args()
    entries = tomllib.loads((ROOT / "bench" / "mutation" / "mutants.toml").read_text(encoding="utf-8"))
    modules = {name: entry for name, entry in entries.items() if name.startswith(tuple(options.modules) or "")}
    if not modules:
        parser.error(f"bench/mutation/mutants.toml lists nothing under {' '.join(options.modules)}")
    trials, errors = plan(modules, None if options.all else options.sample)
    results = read(options.results)
    if options.survivors:
        last = {(row["module"], row["old"], row["new"]): row["result"] for row in results.values()}
        trials = [
            trial for trial in trials if last.get((trial.module, trial.mutant.old, trial.mutant.new)) == "survived"
        ]
    pending = [trial for trial in trials if trial.key not in results]
    if pending:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        run(pending, {name: entry["tests"] for name, entry in modules.items()}, options.jobs, options.results)
        results = read(options.results)
    return report(trials, results, modules, errors)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The results by key, in the order in which they were run."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # a killed run may leave an incomplete line
    return {row["key"]: row for row in rows}


def plan(modules: Modules, sample: int | None) -> tuple[list[Trial], list[str]]:
    """The trials of all modules, and an error for each listed text that is not exactly once in its source."""
    trials: list[Trial] = []
    errors: list[str] = []
    for module, entry in modules.items():
        paths = entry["tests"]
        source = (ROOT / module).read_text(encoding="utf-8")
        guards_hash = _hash(*((ROOT / path).read_text(encoding="utf-8") for path in paths + _conftests(paths)))
        all_mutants = mutation_operators.all_mutants(source)
        sampled = (
            all_mutants if sample is None else random.Random(SEED).sample(all_mutants, min(sample, len(all_mutants)))
        )
        mutants_by_source = {
            mutation_operators.apply(source, mutant): (mutant, "")
            for mutant in sorted(sampled, key=lambda mutant: mutant.start)
        }
        for old, new, promise in entry.get("aimed", []):
            if source.count(old) != 1:
                errors.append(f"{module}: the text must be in the file once, not {source.count(old)} times: {old!r}")
                continue
            start = len(source[: source.index(old)].encode())
            mutant = mutation_operators.of_span(source, start, start + len(old.encode()), new)
            mutants_by_source[mutation_operators.apply(source, mutant)] = (mutant, promise)
        for text, (mutant, promise) in mutants_by_source.items():
            trials.append(Trial(module, mutant, promise, _hash(source, guards_hash, text)))
        lines = _flat(source)
        expected_lines = [old for kind in ("equivalent", "accepted") for old, _, _ in entry.get(kind, [])]
        errors += [f"{module}: a listed line is missing: {old!r}" for old in expected_lines if _flat(old) not in lines]
    return trials, errors


def _conftests(paths: list[str]) -> list[str]:
    candidates = {parent / "conftest.py" for path in paths for parent in Path(path).parents}
    return sorted(str(path) for path in candidates if (ROOT / path).exists())


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def report(trials: list[Trial], results: dict[str, dict[str, Any]], modules: Modules, errors: list[str]) -> int:
    """Print the counts of each module and the survivors; the exit code: 1 for too many survivors or any error."""
    allowed = {
        kind: {
            (module, _flat(old), _flat(new)): reason
            for module, entry in modules.items()
            for old, new, reason in entry.get(kind, [])
        }
        for kind in ("equivalent", "accepted")
    }
    lines: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for trial in trials:
        identity = (trial.module, trial.mutant.old, trial.mutant.new)
        count = counts.setdefault(trial.module, dict.fromkeys(COLUMNS, 0))
        count["aimed" if trial.promise else "sample"] += 1
        row = results[trial.key]
        reason = allowed["equivalent"].get(identity)
        if reason and row["result"] != "survived":
            errors.append(f"{trial.module}:{trial.mutant.line}: listed as equivalent, and a test kills it")
        kind = "killed" if row["result"] != "survived" else "equivalent" if reason else "survived"
        count[kind] += 1
        if kind != "killed":
            why = reason or allowed["accepted"].get(identity) or trial.promise or "NO REASON YET"
            lines += [
                f"{kind}: {trial.module}:{trial.mutant.line}  {why}",
                f"  - {trial.mutant.old}",
                f"  + {trial.mutant.new}",
            ]
    print("\n".join(lines))  # noqa: T201
    total = {
        identity: sum(count[identity] for count in counts.values()) for identity in next(iter(counts.values()), {})
    }
    for module, count in {**counts, "all": total}.items():
        real = count.get("killed", 0) + count.get("survived", 0)
        share = f"{count['killed'] / real:.0%} killed" if real else ""
        print(f"{module:28}", *(f"{value:5} {identity}" for identity, value in count.items()), share)  # noqa: T201
    cpu = sum(results[trial.key]["cpu"] for trial in trials)
    print(f"{cpu / 60:.0f} minutes of one core")  # noqa: T201
    print("\n".join(f"ERROR {error}" for error in errors))  # noqa: T201
    real = total.get("killed", 0) + total.get("survived", 0)
    return int(bool(errors) or total.get("survived", 0) > LIMIT * real)


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
