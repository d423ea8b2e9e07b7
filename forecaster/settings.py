"""What the environment decides: where things are kept. Nothing here changes a forecast."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from features.errors import UsageError

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Read from environment variables named ``FORECASTER_`` and the setting, such as ``FORECASTER_STORE``.

    ``home`` holds what the program keeps for itself (runs, registered models, their cache) and lies in the
    working directory unless named. ``MLFLOW_TRACKING_URI`` counts where ``FORECASTER_TRACKING_URI`` is unset.
    """

    model_config = SettingsConfigDict(env_prefix="FORECASTER_", frozen=True, env_ignore_empty=True, extra="ignore")

    home: Path = Path(".forecaster")
    store: Path | None = None
    tracking: str | None = Field(None, validation_alias=AliasChoices("FORECASTER_TRACKING_URI", "MLFLOW_TRACKING_URI"))
    model_name: str = "forecaster"
    workers: PositiveInt | None = None

    @classmethod
    def load(cls) -> Settings:
        """Read the environment. Raises ``UsageError`` naming the variable that holds no such setting."""
        try:
            return cls.model_validate({})
        except ValidationError as error:
            fault = error.errors()[0]
            name = f"FORECASTER_{fault['loc'][0]}".upper()
            raise UsageError(
                f"environment variable {name}={fault['input']!r}: {fault['msg']}; set or unset it"
            ) from None

    @property
    def tracking_uri(self) -> str:
        """Where runs are tracked: one SQLite file in ``home`` unless a URI is set."""
        return self.tracking or f"sqlite:///{self.home.expanduser().resolve() / 'mlflow.db'}"

    @property
    def model_cache(self) -> Path:
        """Where fetched and verified model artifacts are kept."""
        return self.home.expanduser() / "models"
