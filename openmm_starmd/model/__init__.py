"""The network: configuration, conditioner, IPA, space-time attention with its KV cache, weights on disk."""
