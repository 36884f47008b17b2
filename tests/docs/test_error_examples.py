"""Each code of a topology error has an example that raises it, on a page that is made of them."""

from tests.docs import error_examples as made


def test_every_code_has_an_example_or_a_reason_for_none() -> None:
    assert set(made.EXAMPLES) | set(made.UNSHOWN) == set(made.rows())
    assert not set(made.EXAMPLES) & set(made.UNSHOWN)
    assert len(made.EXAMPLES) > 50


def test_the_page_is_made_of_the_examples() -> None:
    """Its blocks run in `test_readme.py`."""
    assert (made.DOCS / "error-examples.md").read_text() == made.page(), "run `python -m tests.docs.error_examples`"
