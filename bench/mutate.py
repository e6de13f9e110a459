"""Do the tests notice when a promise is broken? Mutates modules one point at a time and prints what survives.

    python bench/mutate.py                          every module of bench/mutants.toml, under an hour on 2 cores
    python bench/mutate.py training/promotion/gate.py         some modules
    python bench/mutate.py --survivors lineage/     again what survived last time, after a test was written
    python bench/mutate.py --all training/promotion/gate_checks.py   every mutant, no sample

bench/mutants.toml lists the modules with the tests that guard them, the aimed mutants with the promise that each
breaks, and the mutants that may live: `equivalent` ones change nothing that anybody could notice, `accepted` ones do,
and have a reason. Of each module a seeded sample of its single-point mutants (bench/mutants.py) is tried beside them.
A mutant is written into a copy of the tree, never into the tree, and the module's tests run there in a fork of this
process, in which the libraries are imported already; what fails or exceeds ten times the usual time and 20 s is killed.
Results are kept in var/mutation.jsonl under the hashes of module, mutant and tests: a run that was broken off goes on.
Ends with 1 where more than 5 % of the mutants that are not equivalent survive, or where a listed text is gone.
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

import mutants
from mutation_run import Trial, run

ROOT = Path(__file__).resolve().parent.parent
SEED, SAMPLE, LIMIT = 20261201, 40, 0.05  # LIMIT: share of mutants that may survive
COLUMNS = ("sample", "aimed", "killed", "survived", "equivalent")
Modules = dict[str, dict[str, list[Any]]]


def main() -> int:
    """Try what has not been tried, and report on all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths, or beginnings of paths; all of them if none is named")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="mutants a module beside the aimed ones")
    parser.add_argument("--all", action="store_true", help="every mutant instead of a sample")
    parser.add_argument("--survivors", action="store_true", help="only what survived when it was tried last")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--results", type=Path, default=ROOT / "var" / "mutation.jsonl", help="where results are kept")
    chosen = parser.parse_args()
    listed = tomllib.loads((ROOT / "bench" / "mutants.toml").read_text(encoding="utf-8"))
    modules = {name: told for name, told in listed.items() if name.startswith(tuple(chosen.modules) or "")}
    if not modules:
        parser.error(f"bench/mutants.toml lists nothing under {' '.join(chosen.modules)}")
    trials, errors = plan(modules, None if chosen.all else chosen.sample)
    results = read(chosen.results)
    if chosen.survivors:
        last = {(row["module"], row["old"], row["new"]): row["result"] for row in results.values()}
        trials = [
            trial for trial in trials if last.get((trial.module, trial.mutant.old, trial.mutant.new)) == "survived"
        ]
    waiting = [trial for trial in trials if trial.key not in results]
    if waiting:
        chosen.results.parent.mkdir(parents=True, exist_ok=True)
        run(waiting, {name: told["tests"] for name, told in modules.items()}, chosen.jobs, chosen.results)
        results = read(chosen.results)
    return report(trials, results, modules, errors)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The results so far by key, the last to be tried last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]  # a killed run may leave half a line
    return {row["key"]: row for row in rows}


def plan(modules: Modules, sample: int | None) -> tuple[list[Trial], list[str]]:
    """What is to be tried of each module, and the listed texts that its source does not have (once)."""
    trials: list[Trial] = []
    errors: list[str] = []
    for module, listed in modules.items():
        paths = listed["tests"]
        source = (ROOT / module).read_text(encoding="utf-8")
        guards = _hash(*((ROOT / path).read_text(encoding="utf-8") for path in paths + _conftests(paths)))
        every = mutants.mutants(source)
        drawn = every if sample is None else random.Random(SEED).sample(every, min(sample, len(every)))
        told = {
            mutants.apply(source, mutant): (mutant, "") for mutant in sorted(drawn, key=lambda mutant: mutant.start)
        }
        for old, new, promise in listed.get("aimed", []):
            if source.count(old) != 1:
                errors.append(f"{module}: stands {source.count(old)} times in the file, and once is needed: {old!r}")
                continue
            start = len(source[: source.index(old)].encode())
            mutant = mutants.of_span(source, start, start + len(old.encode()), new)
            told[mutants.apply(source, mutant)] = (mutant, promise)
        for text, (mutant, promise) in told.items():
            trials.append(Trial(module, mutant, promise, _hash(source, guards, text)))
        lines = _flat(source)
        listed_lines = [old for kind in ("equivalent", "accepted") for old, _, _ in listed.get(kind, [])]
        errors += [f"{module}: a listed line is gone: {old!r}" for old in listed_lines if _flat(old) not in lines]
    return trials, errors


def _conftests(paths: list[str]) -> list[str]:
    found = {parent / "conftest.py" for path in paths for parent in Path(path).parents}
    return sorted(str(path) for path in found if (ROOT / path).exists())


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def report(trials: list[Trial], results: dict[str, dict[str, Any]], modules: Modules, errors: list[str]) -> int:
    """Print killed, survived and equivalent of each module, and the survivors; 1 where there are too many."""
    may_live = {
        kind: {
            (module, _flat(old), _flat(new)): reason
            for module, listed in modules.items()
            for old, new, reason in listed.get(kind, [])
        }
        for kind in ("equivalent", "accepted")
    }
    lines: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for trial in trials:
        name = (trial.module, trial.mutant.old, trial.mutant.new)
        count = counts.setdefault(trial.module, dict.fromkeys(COLUMNS, 0))
        count["aimed" if trial.promise else "sample"] += 1
        row = results[trial.key]
        reason = may_live["equivalent"].get(name)
        if reason and row["result"] != "survived":
            errors.append(f"{trial.module}:{trial.mutant.line}: listed as equivalent, and a test kills it")
        kind = "killed" if row["result"] != "survived" else "equivalent" if reason else "survived"
        count[kind] += 1
        if kind != "killed":
            why = reason or may_live["accepted"].get(name) or trial.promise or "NO REASON YET"
            lines += [
                f"{kind}: {trial.module}:{trial.mutant.line}  {why}",
                f"  - {trial.mutant.old}",
                f"  + {trial.mutant.new}",
            ]
    print("\n".join(lines))  # noqa: T201
    total = {name: sum(count[name] for count in counts.values()) for name in next(iter(counts.values()), {})}
    for module, count in {**counts, "all": total}.items():
        real = count.get("killed", 0) + count.get("survived", 0)
        share = f"{count['killed'] / real:.0%} killed" if real else ""
        print(f"{module:28}", *(f"{value:5} {name}" for name, value in count.items()), share)  # noqa: T201
    cpu = sum(results[trial.key]["cpu"] for trial in trials)
    print(f"{cpu / 60:.0f} minutes of one core")  # noqa: T201
    print("\n".join(f"ERROR {error}" for error in errors))  # noqa: T201
    real = total.get("killed", 0) + total.get("survived", 0)
    return int(bool(errors) or total.get("survived", 0) > LIMIT * real)


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
