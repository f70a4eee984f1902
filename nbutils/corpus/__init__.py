"""Step 1: files become pages, pages become chunks."""
