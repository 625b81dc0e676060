"""`python -m gpubp.emulator program.py`: runs a program on the virtual device; see `run`."""

from gpubp.emulator.run.command import main

if __name__ == "__main__":
    main()
