"""The study: which models are trained on what, how often, and what comes of it."""
