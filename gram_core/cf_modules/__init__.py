"""CF modules, one file each: the file's name is the module's."""
