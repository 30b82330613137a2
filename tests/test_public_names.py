"""What nas_plugins offers by name."""

import nas_plugins


def test_the_public_names_are_listed_and_each_is_there():
    assert set(nas_plugins.__all__) <= set(dir(nas_plugins))
    assert [getattr(nas_plugins, name).__name__ for name in nas_plugins.__all__] == nas_plugins.__all__
