"""What a benchmark found: a table for people, build/bench/<name>.json for programs.

A benchmark is a module of this folder with a `main()` that ends in `publish(name, figures)`;
`__main__.BENCHMARKS` names them all. A bar that is missed is said loudly and is no failure of the
run: how fast a machine is, is not whether the program is right.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number.

    value  the median of all rounds, unless the name says otherwise
    best   the best round: the machine may be shared, and others cost time but never give any
    bar    what VALUE must be, "<= 200" or ">= 0.97"; None: it is here to compare with
    holds  whether it is; None without a bar
    """

    name: str
    value: float
    unit: str
    best: float | None = None
    bar: str | None = None
    holds: bool | None = None


def at_most(name: str, rounds: Sequence[float], unit: str, bar: float) -> Figure:
    """ROUNDS, of which the median must be BAR or less."""
    value = statistics.median(rounds)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        best=min(rounds),
        bar=f"<= {_short(bar)}",
        holds=value <= bar,
    )


def at_least(name: str, rounds: Sequence[float], unit: str, bar: float) -> Figure:
    """ROUNDS, of which the median must be BAR or more."""
    value = statistics.median(rounds)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        best=max(rounds),
        bar=f">= {_short(bar)}",
        holds=value >= bar,
    )


def beside(
    name: str, rounds: Sequence[float], unit: str, *, more_is_better: bool = False
) -> Figure:
    """ROUNDS of a rival, or of a part: without a bar."""
    best = max(rounds) if more_is_better else min(rounds)
    return Figure(name=name, value=statistics.median(rounds), unit=unit, best=best)


def claim(name: str, *, holds: bool) -> Figure:
    """Something that is so or is not."""
    return Figure(name=name, value=float(holds), unit="is so", bar=">= 1", holds=holds)


def publish(benchmark: str, figures: Iterable[Figure]) -> None:
    """Write build/bench/BENCHMARK.json and print the table."""
    listed = list(figures)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{benchmark}.json"
    path.write_text(json.dumps([asdict(figure) for figure in listed], indent=1) + "\n")
    print(table(benchmark, listed), flush=True)


def read(benchmark: str) -> list[Figure]:
    """What BENCHMARK published last."""
    return [Figure(**entry) for entry in json.loads((FOLDER / f"{benchmark}.json").read_text())]


def table(title: str, figures: Sequence[Figure]) -> str:
    """One line a figure; a missed bar has the loudest."""
    width = max(len(figure.name) for figure in figures)
    lines = [f"{title:<{width}}  {'median':>11} {'best':>11} {'':<6} bar"]
    for figure in figures:
        best = "" if figure.best is None else _short(figure.best)
        bar = figure.bar or ""
        if figure.holds is not None:
            bar += "  holds" if figure.holds else "  *** MISSED ***"
        numbers = f"{_short(figure.value):>11} {best:>11} {figure.unit:<6}"
        lines.append(f"{figure.name:<{width}}  {numbers} {bar}".rstrip())
    return "\n".join(lines)


def missed(figures: Iterable[Figure]) -> list[str]:
    """A line for each figure that misses its bar."""
    return [
        f"{figure.name}: {_short(figure.value)} {figure.unit}, want {figure.bar}"
        for figure in figures
        if figure.holds is False
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
