"""One fault a file: exactly one public subclass of `Fault` each."""
