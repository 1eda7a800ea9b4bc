"""`python -m curate`, and what torchrun starts: the command `curate`."""

from curate.cli import main

if __name__ == "__main__":
    main(prog_name="curate")
