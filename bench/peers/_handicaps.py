"""Sentences that several peers need to say of themselves (`handicaps`)."""

UNCAPTURED = "on the fast engine its steps are launched kernel by kernel; ours are replayed from captured graphs"
FEW_STEPS = "a measurement has few warm-up steps: its cache holds less there than in a long training"
