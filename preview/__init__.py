"""Live latent previews that cost the sampler nothing."""
