"""How the second embedded model is made: a small Wan over a small causal autoencoder."""
