"""Names become LLMs and embedding models; texts become vectors and rankings."""
