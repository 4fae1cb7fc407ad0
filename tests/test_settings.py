"""Settings: from the environment, checked, and never changed afterwards."""

import pytest
from pydantic import ValidationError

from labserver.errors import LabError
from labserver.settings import Settings, get_settings


@pytest.fixture(autouse=True)
def _forget() -> None:
    get_settings.cache_clear()


def test_a_variable_of_the_environment_sets_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABSERVER_SSE_INTERVAL", "0.5")
    assert get_settings().sse_interval == 0.5


def test_an_argument_is_stronger_than_the_environment_which_counts_for_all_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LABSERVER_SSE_INTERVAL", "0.5")
    monkeypatch.setenv("LABSERVER_MODEL", "from the environment")
    settings = Settings(sse_interval=0.1)
    assert (settings.sse_interval, settings.model) == (0.1, "from the environment")


def test_a_wrong_value_is_one_sentence_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABSERVER_LLM", "gpt")
    with pytest.raises(LabError, match=r"LABSERVER_LLM: .*'fake' or 'anthropic'.* Correct or unset"):
        get_settings()


def test_settings_are_immutable_and_know_their_names() -> None:
    settings = Settings(sse_interval=0.1)
    with pytest.raises(ValidationError):
        settings.sse_interval = 0.2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(sse_intervall=0.1)  # type: ignore[call-arg]


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABSERVER_SECRET", "s3cret" * 8)
    assert "s3cret" not in repr(get_settings())


def test_every_setting_says_what_it_is_and_in_which_unit() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if field.annotation in (int, float):
            assert any(
                unit in field.description.lower() for unit in ("second", "byte", "message", "number", "count")
            ), name


def test_a_key_in_the_environment_changes_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-x")
    monkeypatch.delenv("LABSERVER_LLM", raising=False)
    assert get_settings().llm == "fake"
