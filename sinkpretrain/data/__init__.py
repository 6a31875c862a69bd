"""Text to windows of tokens: recipes and sources, the tokenizer, the token store, the order, the data module."""
