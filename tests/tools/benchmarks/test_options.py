"""What the parsers offer without importing it is there."""


def test_names_are_those_of_the_tables(load):
    options, models = load('options'), load('models')
    assert options.SCALES == tuple(models._ARCHS)
    assert options.FAMILIES == (options.OURS, *models._TIMM)


def test_operators_are_functions(load):
    for name in load('heat_operator').OPERATORS:
        assert callable(getattr(load('conduction'), name))
