"""What a user asks of a trained hierarchy about a video or a store, level by level.

    model = Hierarchy.from_pretrained("runs/demo")
    view = View(model, "street.mp4")               # or a store's folder; encoded once, at the first question
    save_states(states(view, levels=[2]), "street.npz")
    draw_nearest(found := nearest(view, level=3, time_s=12.5), view).save("nearest.png")
    surprise(view), segments(view, level=2), futures(view, level=3, time_s=12.5, steps=4)

Every result is a dataclass whose ``asdict()`` gives plain figures for JSON. Every mistake of the user's is a
`UserError` of one line. What a level keeps of a store's labels is in hjepa/evaluate/probe.py.
"""

from hjepa.query.events import Segment, Surprise, draw_segments, persistence_energy, segments, surprise
from hjepa.query.foresight import Future, Futures, draw_futures, futures
from hjepa.query.moments import Near, Neighbours, draw_nearest, nearest
from hjepa.query.tracks import LevelTrack, save_states, states
from hjepa.query.view import Film, Library, Moment, View, open_source

__all__ = [
    "Film",
    "Future",
    "Futures",
    "LevelTrack",
    "Library",
    "Moment",
    "Near",
    "Neighbours",
    "Segment",
    "Surprise",
    "View",
    "draw_futures",
    "draw_nearest",
    "draw_segments",
    "futures",
    "nearest",
    "open_source",
    "persistence_energy",
    "save_states",
    "segments",
    "states",
    "surprise",
]
