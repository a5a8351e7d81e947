"""``python -m trimtab_infra`` is ``trimtab``."""

from trimtab_infra.cli import main

if __name__ == "__main__":
    main()
