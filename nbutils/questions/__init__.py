"""Step 2: chunks become (question, chunk) pairs."""
