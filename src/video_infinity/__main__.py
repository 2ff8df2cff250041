"""`python -m video_infinity` is the command."""

from video_infinity.cli import main

if __name__ == "__main__":
    main()
