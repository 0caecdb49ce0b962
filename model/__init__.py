"""BitNet sequence encoders: the model, its training, its packed file and its engine."""
