"""Fresh processes, their supervision, and their certain end."""
