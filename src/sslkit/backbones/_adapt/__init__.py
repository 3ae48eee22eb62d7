"""Our interface around the models of other libraries, one file a library. None imports its library: a class is known by name."""
