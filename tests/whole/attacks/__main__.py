"""Attack services on loopback, one attack after the other, and tell what came of each: `make attack`.

    python -m tests.whole.attacks [--seconds 10] [NAME ...]

Exits with 1 where a promise did not hold.
"""

import argparse
import sys

from tests.whole.attacks.table import ATTACKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*ATTACKS, []], help="of attacks; all of them by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which an attack goes on that has no end")
    args = parser.parse_args()
    broken = []
    for name in args.names or ATTACKS:
        outcome = ATTACKS[name](args.seconds)
        print(f"{'held  ' if outcome.held else 'BROKEN'} {name}: {outcome.figure}", flush=True)
        broken += [] if outcome.held else [name]
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
