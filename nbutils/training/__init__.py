"""Step 3: pairs become a fine-tuned model."""
