"""The Llama, with attention from the two registries."""
