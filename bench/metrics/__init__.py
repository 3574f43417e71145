"""What a trained model is judged by, one file each: the file's name is the metric's, larger is better.

A module holds `TASKS`, the tasks that it judges, and `value(judged) -> float | None`: None where there is nothing to
judge by. Between 0 and 1; reports print hundredths.
"""
