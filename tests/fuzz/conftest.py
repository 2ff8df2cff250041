"""How long to draw: little in `make test`, minutes in `make fuzz`."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a drawn name is not to be looked for on the hub

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=25, **COMMON)
settings.register_profile("fuzz", max_examples=1000, print_blob=True, **COMMON)
if settings.get_current_profile_name() in ("default", "untimed"):
    settings.load_profile("short")
