"""What several peers need to say of themselves (`handicaps`)."""

from bench.limitations import Handicap

UNCAPTURED = Handicap(
    "on the fast engine its steps are launched kernel by kernel; ours are replayed from captured graphs",
    "against graphs",
)
FEW_STEPS = Handicap(
    "a measurement has few warm-up steps: its cache holds less there than in a long training", "measured"
)
