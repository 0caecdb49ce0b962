"""A universal encoder, learnt from synthetic series alone: from a recipe to a checkpoint."""
