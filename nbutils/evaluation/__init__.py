"""Step 4: models become tables and a verdict."""
