"""Attack services on loopback, one attack after the other, and tell what came of each: `make attack`.

    python -m tests.whole.attacks [--seconds 10] [--step 1] [NAME ...]

Exits with 1 where a promise did not hold, or an honest step took too long.
"""

import argparse
import sys

from tests.whole.attacks.table import ATTACKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*ATTACKS, []], help="of attacks; all of them by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which an attack goes on that has no end")
    parser.add_argument("--step", type=float, default=1.0, help="seconds that no step of an honest trainer may take")
    args = parser.parse_args()
    broken = []
    for name in args.names or ATTACKS:
        outcome = ATTACKS[name](args.seconds)
        holds = outcome.holds(args.step)
        print(f"{'held  ' if holds else 'BROKEN'} {name}: {outcome.figure}", flush=True)
        broken += [] if holds else [name]
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
