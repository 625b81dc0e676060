"""What `gpubp info` says of this machine."""

import io
import json

from gpubp import backends, machine
from gpubp.terminal import PlainConsole


def test_every_backend_and_device_is_named():
    found = machine.look()
    assert [(each.backend, each.device) for each in found.backends] == [
        (name, device) for name, devices in backends.BACKENDS.items() for device in devices
    ]
    assert found.backends[0].works


def test_what_automatic_takes_is_what_it_takes():
    backend = backends.get("auto")
    assert machine.look().automatic == f"{backend.name} on {backend.device}"


def test_json_can_hold_it():
    found = machine.look()
    assert json.loads(json.dumps(found.to_dict()))["packages"]["numpy"] == found.packages["numpy"]


def test_the_table_shows_remedies_as_they_are_typed():
    console = PlainConsole(width=200, record=True, file=io.StringIO())
    found = machine.look()
    console.print(found.table())
    text = console.export_text()
    for each in found.backends:
        assert each.remedy in text
