"""Makes up 2,400 patients of a ward over six months, as a CSV file on standard output.

Nobody in it exists: sex, age, lactate and blood pressure are drawn from plausible ranges, and
whether somebody died follows a made-up rule with noise. The same file comes out every time.
"""  # noqa: INP001 - a script beside its example, in no package

from __future__ import annotations

import csv
import math
import random
import sys

PATIENTS = 2400
MONTHS = 6
DAYS = 28


def main() -> None:
    """Write header and rows."""
    drawn = random.Random(20250101)  # noqa: S311 - made-up data, the same every time
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["patient", "admitted", "age", "lactate", "pressure", "outcome"])
    for number in range(PATIENTS):
        month, day = 1 + number * MONTHS // PATIENTS, drawn.randint(1, DAYS)
        age = drawn.randint(18, 95)
        lactate = min(20.0, drawn.expovariate(0.45))
        pressure = drawn.gauss(85, 15)
        score = 0.06 * (age - 60) + 0.7 * (lactate - 2) - 0.05 * (pressure - 85) - 0.5
        died = drawn.random() < 1 / (1 + math.exp(-2 * score))
        out.writerow(
            [
                f"p{number:04d}",
                f"2025-{month:02d}-{day:02d}",
                age,
                f"{lactate:.1f}",
                f"{min(160.0, max(30.0, pressure)):.0f}",
                "died" if died else "survived",
            ]
        )


if __name__ == "__main__":
    main()
