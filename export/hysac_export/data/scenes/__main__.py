"""`python -m hysac_export.data.scenes`."""

from hysac_export.data.scenes.cli import scenes

if __name__ == "__main__":
    scenes()
