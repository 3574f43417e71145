"""Collaborative filtering modules, one file each: the file's name is the module's."""

TASKS = {"dkt": "response", "nrms": "ranking", "sakt": "response"}
"""What each predicts, known without torch; of a module that is not here, its class tells."""
