"""How the embedded model is made: world, autoencoder, denoiser, export, evaluation."""
