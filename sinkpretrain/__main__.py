"""`python -m sinkpretrain` is the `sinkpretrain` command."""

from sinkpretrain.cli import main

if __name__ == "__main__":
    main()
