"""Files of logs, read strictly: the first malformed line is an error that names it."""
