"""From a picture to the client that queued the prompt; nothing here knows torch."""
