"""`python -m quicknet.engine`: build the engine now and say in one line what came of it."""

from quicknet.engine import status

if __name__ == "__main__":
    print(status())
