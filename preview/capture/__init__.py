"""What runs on the sampler's thread: from ComfyUI's callback to a staged latent."""
