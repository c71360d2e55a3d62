"""Embeddings, pooling, classification, scores and ranks: what a vLLM pooling engine serves."""
