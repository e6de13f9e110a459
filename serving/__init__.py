"""What we say: the exported graph, answers and heat maps, and the service. No training framework here."""
