"""How the content encoder runs, one file each: the file's name is the engine's."""
