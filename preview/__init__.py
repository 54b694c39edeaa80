"""Live latent previews that don't slow the sampler."""
