"""``python -m shieldmw``."""

from .cli import main

main()
