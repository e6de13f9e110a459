"""Inference and serving: the exported graph, heat maps, the release, the BentoML service. No training framework."""
