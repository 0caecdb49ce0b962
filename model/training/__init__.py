"""From a recipe and a data set to a checkpoint, and from that to a packed file."""
