"""Taking measurements: a manager, worker processes, and one method on one case stepping in each."""
