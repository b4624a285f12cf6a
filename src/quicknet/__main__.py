"""`python -m quicknet`, and what `torchrun -m quicknet train …` starts."""

from quicknet.cli.main import main

if __name__ == "__main__":
    main()
