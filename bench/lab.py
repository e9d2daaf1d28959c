"""The lab, whole: every pathology is caused over several seeds, and it is counted how often the doctor names it and whether the cure cures.

    python bench/lab.py                        # 3 seeds, 111 runs of some 420 steps
    python bench/lab.py --seeds 1 --folder lab # with pictures and their page

Leaves with 1 where fewer than 12 pathologies are named in every seed by the id that is expected, or a cure leaves the mean held-out accuracy
below 90 %.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import wellfit

MOST, GOOD = 12, 0.9


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="draw the pictures and their page here")
    arguments.add_argument("--json", type=Path, help="all numbers")
    chosen = arguments.parse_args()
    began = time.perf_counter()
    lessons = wellfit.lab(seeds=chosen.seeds, folder=chosen.folder)
    print("| pathology | finding | named | first | at step | with the fault | cured | also said of the cured |")
    print("|---|---|---|---|---|---|---|---|")
    for lesson in lessons:
        before, after = (lesson.accuracy(of) for of in ("faulty", "cured"))
        at = "" if lesson.found is None else "end" if lesson.found.at_the_end else str(lesson.found.told_at)
        print(
            f"| {lesson.pathology.name} | {lesson.pathology.finding} | {lesson.named} of {chosen.seeds} | {lesson.first} | {at} "
            f"| {before.mean:.1%} ({before.lowest:.1%} to {before.highest:.1%}) "
            f"| {after.mean:.1%} ({after.lowest:.1%} to {after.highest:.1%}) | {', '.join(lesson.left)} |"
        )
    named = sum(lesson.named == chosen.seeds for lesson in lessons)
    cured = sum(lesson.accuracy("cured").mean >= GOOD for lesson in lessons)
    seconds = [t.seconds for lesson in lessons for of in ("faulty", "cured") for t in lesson.trials(of)]
    print(
        f"\n{named} of {len(lessons)} named in every run, {cured} cured to {GOOD:.0%} and more on average; "
        f"a run took {sum(seconds) / len(seconds):.1f} s, all of it {time.perf_counter() - began:.0f} s"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps([lesson.as_dict() for lesson in lessons], indent=1, ensure_ascii=False))
    return int(named < MOST or cured < len(lessons))


if __name__ == "__main__":
    sys.exit(main())
