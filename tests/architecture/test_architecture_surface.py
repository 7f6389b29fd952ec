"""The frozen surface: public names with their parameters, and the command line's options.

When a change is meant, write the new list with ``python tests/architecture/surface.py`` and review its difference.
"""

from architecture.surface import FROZEN, describe


def test_the_surface_is_the_frozen_one():
    assert describe() == FROZEN.read_text(encoding="utf-8").splitlines()


def test_a_new_name_would_be_noticed(monkeypatch):
    import gradledger

    monkeypatch.setitem(gradledger._HOMES, "UserErrorToo", "gradledger.errors")
    monkeypatch.setattr("gradledger.errors.UserErrorToo", ValueError, raising=False)
    monkeypatch.setattr(gradledger, "__all__", [*gradledger.__all__, "UserErrorToo"])
    assert describe() != FROZEN.read_text(encoding="utf-8").splitlines()
