"""``python -m lesson_helpers``: the command that ``./lesson`` hands over to."""

from lesson_helpers.cli import main

if __name__ == "__main__":
    main()
