"""Makes the generated sprites store: python data/sprites.py --out STORE."""

from __future__ import annotations

import argparse

from hjepa.envs.sprites import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="steps an episode")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    record(asked.out, asked.episodes, asked.steps, asked.size, asked.seed)


if __name__ == "__main__":
    main()
