"""Live latent previews that cost the sampler nothing. See docs/architecture.md for the way of a frame."""
