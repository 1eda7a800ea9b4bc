"""Networks that are no CLIP model: the packaged one, exported ones of users, heads over embeddings."""
