"""CLIP models: which one a name means, how it is made, its towers and tokens."""
