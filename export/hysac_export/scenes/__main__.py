"""`python -m hysac_export.scenes`."""

from hysac_export.scenes.cli import scenes

if __name__ == "__main__":
    scenes()
