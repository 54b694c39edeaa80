"""What runs on the preview worker: from a staged latent to pixels on the CPU."""
